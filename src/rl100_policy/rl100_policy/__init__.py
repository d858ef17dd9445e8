# SPDX-License-Identifier: Apache-2.0
"""What runs on the robot: perception, policy, safety and recording.

``core`` is free of ROS, ``nodes`` are thin shells.
"""
