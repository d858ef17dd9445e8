# SPDX-License-Identifier: Apache-2.0
"""Datasets in the format of LeRobot, version 3.0: episodes to others, and theirs to ours."""
