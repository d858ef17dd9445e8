# SPDX-License-Identifier: Apache-2.0
"""Layer ``algorithms``: each file has a Config, State, init and update; none imports another."""
