# SPDX-License-Identifier: Apache-2.0
"""Layer ``objectives``: losses and estimates as pure functions of tensors, without state."""
