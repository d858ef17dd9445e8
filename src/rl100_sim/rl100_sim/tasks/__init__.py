# SPDX-License-Identifier: Apache-2.0
"""Simulated tasks: start states, reward and end of an episode. One module per task."""
