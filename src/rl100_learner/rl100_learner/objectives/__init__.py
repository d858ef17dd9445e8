# SPDX-License-Identifier: Apache-2.0
"""Layer ``objectives``: losses and estimates as pure functions of tensors; no state, no optimiser, no configuration."""
