# SPDX-License-Identifier: Apache-2.0
"""Claims of the documentation, run and told again: variants, jobs, tables over seeds."""
