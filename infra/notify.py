"""Notify a webhook of runs that failed: a Prefect notification block, and an automation that uses it.

    .venv/bin/python infra/notify.py --webhook https://hooks.slack.com/services/...

The server is that of PREFECT_API_URL, else the one of `liveavatar serve`, which must be running. Run it again to change
the address. The message is JSON with the key `text`, which Slack, Mattermost and Google Chat take; for others, edit the
block in the Prefect UI.
"""

import argparse
import sys
from datetime import timedelta

from flows.serving import environment
from flows.serving.prefect_server import PrefectServer
from liveavatar.errors import InputError, LiveAvatarError

NAME = "live-avatar-failed"
STATES = ("Failed", "Crashed", "TimedOut")
WARNED = "Warned"
SUBJECT = "{{ flow_run.name }}: {{ flow_run.state.name }}"
BODY = "{{ flow_run.state.message }}"


def make_automation(webhook: str, warned: bool) -> str:
    """Make block and automation on the server, or change those that are there.

    Args:
        webhook: address that gets the message.
        warned: whether runs with warnings count, too.

    Returns:
        what was done, as a line.
    """
    environment.import_prefect()
    from prefect.automations import Automation, EventTrigger, Posture
    from prefect.blocks.notifications import CustomWebhookNotificationBlock
    from prefect.events.actions import SendNotification
    from prefect.events.schemas.events import ResourceSpecification

    block = CustomWebhookNotificationBlock(name=NAME, url=webhook, json_data={"text": "{{subject}}\n{{body}}"})
    block_id = block.save(NAME, overwrite=True)
    states = (*STATES, WARNED) if warned else STATES
    trigger = EventTrigger(
        posture=Posture.Reactive,
        match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
        match_related=ResourceSpecification(
            {"prefect.resource.role": "deployment", "prefect.resource.id": "prefect.deployment.*"}
        ),
        expect={f"prefect.flow-run.{state}" for state in states},
        threshold=1,
        within=timedelta(0),
    )
    action = SendNotification(block_document_id=block_id, subject=SUBJECT, body=BODY)
    automation = Automation(name=NAME, description="Failed verdicts", trigger=trigger, actions=[action])
    try:
        automation.id = Automation.read(name=NAME).id
        automation.update()
        return f"automation {NAME}: changed"
    except ValueError:
        automation.create()
        return f"automation {NAME}: made"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--webhook", required=True, help="address of the webhook")
    parser.add_argument("--warned", action="store_true", help="also for runs with warnings")
    options = parser.parse_args(arguments)
    try:
        if not options.webhook.startswith(("http://", "https://")):
            raise InputError(f"--webhook {options.webhook!r} is no address; give one that begins with https://")
        server = PrefectServer()
        if not server.url:
            raise InputError("no Prefect server runs; start `liveavatar serve`, or set PREFECT_API_URL")
        with server:
            server.wait()
            done = make_automation(options.webhook, options.warned)
    except LiveAvatarError as e:
        sys.stderr.write(f"{e}\n")
        return e.exit_code
    sys.stdout.write(done + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
