# SPDX-License-Identifier: Apache-2.0
"""Recordings of others: rosbag2 bags without our recorder become episodes, if they can."""
