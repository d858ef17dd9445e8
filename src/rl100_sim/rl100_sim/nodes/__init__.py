# SPDX-License-Identifier: Apache-2.0
"""Layer ``nodes``: the simulated robot and the person beside it, as ROS 2 nodes."""
