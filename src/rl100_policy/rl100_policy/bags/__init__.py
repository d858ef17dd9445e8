# SPDX-License-Identifier: Apache-2.0
"""Layer ``bags``: episodes on disk as rosbag2 MCAP folders, written, recovered, listed and read.

Knows ``core`` and the bag libraries; no ROS, so that a learner reads bags on any machine.
"""
