# SPDX-License-Identifier: Apache-2.0
"""What trains: bags in, policy versions out. Imports rl100_policy.core, never the reverse."""
