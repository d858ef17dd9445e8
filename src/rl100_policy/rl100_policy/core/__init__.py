# SPDX-License-Identifier: Apache-2.0
"""Layer ``core``: pure functions and value types on numpy and torch arrays.

Imports no ROS and no other layer.
"""
