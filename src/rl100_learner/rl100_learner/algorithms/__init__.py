# SPDX-License-Identifier: Apache-2.0
"""Layer ``algorithms``: one file each with its Config, State, init and update; none imports another."""
