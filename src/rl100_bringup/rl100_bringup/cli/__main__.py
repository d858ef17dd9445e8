# SPDX-License-Identifier: Apache-2.0
"""``python -m rl100_bringup.cli``."""

import sys

from rl100_bringup.cli.app import main

sys.exit(main())
