# SPDX-License-Identifier: Apache-2.0
"""Networks that only the learner needs. What runs on the robot is in rl100_policy.core."""
