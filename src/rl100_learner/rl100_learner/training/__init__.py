# SPDX-License-Identifier: Apache-2.0
"""Layer ``training``: windows, optimisers, the resumable loop and its records."""
