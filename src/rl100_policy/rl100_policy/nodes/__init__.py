# SPDX-License-Identifier: Apache-2.0
"""Layer ``nodes``: one module per node of the robot, thin shells around ``core`` and ``bags``."""
