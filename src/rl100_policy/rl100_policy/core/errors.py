# SPDX-License-Identifier: Apache-2.0
"""Errors of the suite: every message says what was expected, what came, and what to do."""


class Rl100Error(Exception):
    """Root of all errors raised on purpose by this suite."""


class ConfigError(Rl100Error):
    """A configuration file or value is not usable."""


class ObservationError(Rl100Error):
    """A sensor message cannot become part of an observation.

    ``reason`` is a word or two that do not change from message to message, for counting.
    """

    def __init__(self, message: str, *, reason: str = "malformed") -> None:
        """Keep the reason beside the message."""
        super().__init__(message)
        self.reason = reason


class ActionError(Rl100Error):
    """An action or command is malformed."""


class PolicyVersionError(Rl100Error):
    """A policy version cannot be loaded: missing, damaged, or made for something else."""


class BagError(Rl100Error):
    """An episode bag cannot be written, read or recovered."""


class LearningError(Rl100Error):
    """Learning has gone where it cannot go on from."""


class StorageError(Rl100Error):
    """A file cannot be written; what was there before is still there."""
