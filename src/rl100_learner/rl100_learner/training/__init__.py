# SPDX-License-Identifier: Apache-2.0
"""Layer ``training``: runs of every stage that can be resumed, and what they read and record."""
