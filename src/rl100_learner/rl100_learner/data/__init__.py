# SPDX-License-Identifier: Apache-2.0
"""From recorded bags to tensors."""
