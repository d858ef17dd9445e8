# SPDX-License-Identifier: Apache-2.0
"""Press and release the emergency stop of the graph that runs in this ROS domain."""

from __future__ import annotations

import rclpy
from rclpy.executors import SingleThreadedExecutor
from std_srvs.srv import Trigger

from rl100_policy.core.errors import Rl100Error
from rl100_policy.ros.transport import keep_on_this_machine

_PATIENCE_S = 10.0
"""A gate is found, and answers, within this long each [s]."""
_ELSE = "Use the hardware emergency stop if an arm moves"


class GateUnheardError(Rl100Error):
    """No command gate did what was asked."""


def ask_gate(service: str) -> str:
    """Call a control of the command gate that asks for nothing more.

    Args:
        service: ``gate/estop`` or ``gate/release``.

    Returns:
        The gate's answer, for people.

    Raises:
        GateUnheardError: If there is no gate, it does not answer, or refuses.
    """
    keep_on_this_machine(images=False)
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("rl100_person", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    try:
        client = node.create_client(Trigger, service)
        if not client.wait_for_service(_PATIENCE_S):
            raise GateUnheardError(
                f"nobody answers {service} in ROS domain {context.get_domain_id()}: no graph runs "
                "there. One of its own, as of demo, eval, improve and train, says at its start in "
                f"which it runs: ROS_DOMAIN_ID=NUMBER ./rl100 estop. {_ELSE}"
            )
        asked = client.call_async(Trigger.Request())
        executor.spin_until_future_complete(asked, _PATIENCE_S)
        answer = asked.result() if asked.done() else None
        if answer is None or not answer.success:
            told = "no answer" if answer is None else answer.message
            raise GateUnheardError(f"{service}: {told}. {_ELSE}")
        return str(answer.message)
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown(context=context)
