# SPDX-License-Identifier: Apache-2.0
"""The ``rl100`` command: parses, composes, calls; one module per group of verbs."""
