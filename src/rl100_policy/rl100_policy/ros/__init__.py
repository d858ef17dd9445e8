# SPDX-License-Identifier: Apache-2.0
"""Layer ``ros``: what nodes share.

Quality of service, parameters, message construction, start and stop.
"""
