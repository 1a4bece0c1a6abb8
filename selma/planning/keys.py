"""Keys of servers that stages ask are looked for before anything runs: DVC deletes a stage's outs before the stage can
say that its key is not set."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from selma.ground.errors import UserError
from selma.net import servers
from selma.planning.changed import running, states
from selma.runtime.dvcfile import Stage, load_stages
from selma.runtime.params import Params
from selma.runtime.places import JUDGES


def check_keys(params: Params, among: Collection[str] | None = None, forced: bool = False) -> None:
    """Raise UserError for an address or a key that a stage which DVC would run cannot ask its server by.

    `among` are the stages that DVC would look at; None: all. It would run those that are out of date, `forced` every
    one. That is asked for only where something is wrong: a finished run needs no key.
    """
    stages = load_stages(Path.cwd())
    for param, base_url, key_env, asking in _servers(params, stages):
        try:
            servers.read(
                servers.address(base_url, param=f"{param}.base_url"), key_env, param=f"{param}.key_env"
            )
        except UserError as error:
            asking = [name for name in asking if among is None or name in among]
            runs = asking if forced or not asking else running(states(Path.cwd()))
            if stage := next((name for name in asking if name in runs), None):
                raise UserError(f"{error} ({stage} asks it)") from None


def _servers(
    params: Params, stages: Mapping[str, Stage]
) -> Iterator[tuple[str, str | None, str | None, list[str]]]:
    """The param that says of a server, its address, the name of its key's variable, and the stages that ask it."""
    llm = params.llm
    if llm.provider == "openai":
        kinds = {"prompts"} if params.questions.source == "none" else {"prompts", "questions"}
        asking = [name for name in stages if name.partition("@")[0] in kinds]
        yield "llm", llm.base_url, llm.key_env, asking
    for name, row in params.judges.items():
        if row.endpoint is not None:
            card = str(JUDGES / name)
            asking = [stage for stage, spec in stages.items() if card in spec.deps]
            asking += [
                f"policy@{key}"
                for key, policy in params.policies.items()
                if name in policy.rewards or name in policy.held_out
            ]
            yield f"judges.{name}.endpoint", row.endpoint.base_url, row.endpoint.key_env, asking
