# SPDX-License-Identifier: Apache-2.0
"""Composition: which nodes run with which configuration, launch files, the ``rl100`` command.

No maths, no messages.
"""
