"""What making a model took: steps, images, questions and seconds, its teachers' and its images' included, each once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from selma.ground.adapters import CARD, MIXED
from selma.ground.errors import UserError
from selma.ground.files import read_json
from selma.ground.items import load_split
from selma.runtime.params import Params
from selma.runtime.picks import origin, settings_of
from selma.runtime.places import DRAWN, EXPERTS, IMAGES, MIXTURES, PICKED, RENDERED
from selma.studies.results import Cost
from selma.studies.sources import Source

Dev = Callable[[str], tuple[int, int]]  # an expert's dev prompts' images, and the questions about them


class Costs:
    """The costs of one run's experts, policies and mixtures."""

    def __init__(
        self, params: Params, source: Source, lead: Path, times: Mapping[str, float], dev: Dev
    ) -> None:
        """`lead` is the leading benchmark's folder, `times` are stages' seconds, `dev` what scoring an expert takes."""
        self._params, self._source, self._lead, self._times, self._dev = params, source, lead, times, dev

    def of(self, names: Iterable[str]) -> Cost:
        """What these took together, and everything that they were made from."""
        cost, todo, seen = Cost(), list(names), set[str]()
        images: dict[
            str, tuple[int, set[str]]
        ] = {}  # by folder: how many, and the judges that chose among them
        while todo:
            name = todo.pop(0)
            if name in seen:
                continue
            seen.add(name)
            if name in self._params.policies:
                cost += self._learned(name)
                todo += self._teacher(self._params.policies[name].start)
            elif name in self._params.mixtures:
                experts = list(self._params.mixtures[name].experts or self._params.skills)
                stages = (f"mixture@{name}", f"select_mixture@{name}")
                cost += self._chosen(name, self._source.out(MIXTURES) / name, experts[0], *stages)
                todo += experts
            else:
                folder = self._source.out(EXPERTS) / name
                cost += self._chosen(name, folder, name, f"expert@{name}", f"select@{name}")
                made = Path(origin(self._params.experts[name].data, self._params))
                if made.parent == Path(DRAWN):
                    todo += self._teacher(self._params.draws[made.name].weights)
                judges = self._chosen_by(name)
                for source, count in self._images(name, folder).items():
                    most, others = images.get(source, (0, set()))
                    images[source] = max(most, count), others | judges
        for source, (count, judges) in images.items():
            cost += self._drawn(source, count, judges)
        return cost

    def _learned(self, name: str) -> Cost:
        """What a policy took: its rounds' pictures and questions, and those that examined its checkpoints."""
        found = self._source.metrics(f"metrics/policy/{name}.json")
        dev = load_split(self._lead, "dev")
        times = len(found["scores"]) * self._params.policy.images_per_prompt
        images, asked = times * len(dev), times * sum(len(item.questions) for item in dev)
        cost = Cost(found["updates"], found["images"] + images, found["questions"] + asked)
        return cost + self._seconds(f"policy@{name}")

    def _chosen(self, name: str, folder: Path, expert: str, *stages: str) -> Cost:
        """What training something took, and the choice of its checkpoint."""
        scored = self._source.metrics(f"metrics/select/{name}.json")["scores"]
        steps = max(map(int, scored), default=_card(folder, "steps"))
        images, questions = self._dev(expert) if scored else (0, 0)
        return Cost(steps, len(scored) * images, len(scored) * questions) + self._seconds(*stages)

    def _teacher(self, weights: str) -> list[str]:
        return [Path(weights).name] if Path(weights).parent == Path(EXPERTS) else []

    def _images(self, name: str, folder: Path) -> dict[str, int]:
        """How many images an expert was trained on, by the folder that they were drawn into."""
        row, count = self._params.experts[name], _card(folder, "images")
        data = origin(row.data, self._params)
        if data != IMAGES:
            return {data: count}
        skills = row.skills or self._params.skills
        return {f"{IMAGES}/{skill}": count // len(skills) for skill in skills}

    def _chosen_by(self, name: str) -> set[str]:
        """The judges by whose scores an expert's images were chosen; none where nothing was, or by no judge."""
        data = Path(self._params.experts[name].data)
        if data.parent != Path(PICKED) or data.name not in self._params.picks:
            return set()
        key = f"picks.{data.name}.options"
        found = settings_of(self._params.picks[data.name], self._params.rate.judges, key)
        return {*filter(None, [found.get("judge")]), *(found.get("least") or {})}

    def _drawn(self, folder: str, count: int, judges: set[str]) -> Cost:
        """What the images of a folder took: where judges chose among them all of them, and the questions asked."""
        path = Path(folder)
        if path.parent == Path(RENDERED):
            return self._seconds(f"render@{path.name}")
        drawn = path.parent == Path(DRAWN)
        asked = [judge for judge in self._params.rate.judges if judge in judges]
        found = [
            self._source.metrics(f"metrics/rate/{path.relative_to('data')}/{judge}.json") for judge in asked
        ]
        kind = "rate_drawn" if drawn else "rate"
        stages = [f"{kind}@{judge}-{path.name}" for judge in asked]
        stages += [
            f"{stage}@{path.name}" for stage in (("draw",) if drawn else ("prompts", "filter", "images"))
        ]
        images = found[0]["images"] if found else count
        return Cost(0, images, sum(each["questions"] for each in found)) + self._seconds(*stages)

    def _seconds(self, *stages: str) -> Cost:
        return Cost(seconds=sum(self._times.get(stage, 0.0) for stage in stages))


def _card(folder: Path, key: str) -> int:
    """A number that a folder's card must say."""
    file = folder / (CARD if (folder / CARD).is_file() else MIXED)
    card = read_json(file)
    if key not in card:
        raise UserError(f"{file}: lacks {key}; train this expert again")
    return int(str(card[key]))
