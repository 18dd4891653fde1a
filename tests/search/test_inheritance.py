"""What trials start from: the weights of their backbone, or of the nearest trial; written down, kept, not confirmed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from search import results
from search.checkpoints.checkpoints import Local
from search.confirmation.retrainer import TRAIN, Retrainer
from search.evaluator import Measurement
from search.live import front_table
from search.record import State
from search.run import run
from search.study import studies
from search.study.lineage import Parent
from search.study.study import Study
from search.study.warm_start import warm_start
from search.study.work import Assignment, Donor
from search.trial import TimmEvaluator, dataset_of
from search.workers.heirs import carried_out
from spaces import Architecture, SearchSpace, SpaceError, SpaceFile, load
from tests.search.command import TINY, archsearch, kill, space_file, start, wait_for
from tests.search.sums import runs_in_mlflow

pytestmark = pytest.mark.usefixtures("one_thread")

VIT = {"name": "vit_tiny_patch16_224", "kwargs": {"img_size": 16, "patch_size": 4, "depth": 1}}
RESNET = Architecture(backbone="resnet10t")
POINT = {"accuracy": 0.0, "macs": 1e9}


def space_of(inherit: str, **train: Any) -> SpaceFile:
    return load(
        TINY
        | {
            "backbones": ["resnet10t"],
            "dimensions": {"width": [0.125, 0.25, 0.5, 1.0], "scaling": ["none", "rezero"]},
            "constraints": {},
            "search": {"trials": 9, "fidelity": {"rungs": [1, 2], "reduction": 2}},
            "train": {"lr": 2.0e-3, "inherit": inherit, **train},
        }
    )


class TestSpaceFile:
    def test_pretrained_is_short_for_one_of_the_words(self) -> None:
        written = {value: load(TINY | {"train": {"pretrained": value}}) for value in (True, False)}
        assert {value: file.train.inherit for value, file in written.items()} == {True: "pretrained", False: "none"}
        assert written[True] == load(TINY | {"train": {"inherit": "pretrained"}})
        assert "pretrained" not in written[True].to_dict()["train"]
        assert load(TINY | {"train": {"pretrained": False, "inherit": "parent"}}).train.inherit == "parent"

    def test_a_study_that_was_begun_with_the_short_word_goes_on(self) -> None:
        header = load(TINY).to_dict()
        header["train"] = {name: v for name, v in header["train"].items() if name != "inherit"} | {"pretrained": False}
        assert load(header).changes(load(TINY)) == []

    @pytest.mark.parametrize(
        ("train", "message"),
        [
            ({"inherit": "parents"}, r"train\.inherit: unknown value 'parents'; did you mean 'parent'\?"),
            ({"inherit": True}, r"train\.inherit: true is no value \(allowed: nearest, none, parent, pretrained\)"),
            (
                {"inherit": "nearest", "pretrained": True},
                r"train\.pretrained: is true, but inherit is nearest; leave pretrained out, inherit says it all",
            ),
            (
                {"inherit": "pretrained", "pretrained": False},
                r"train\.pretrained: is false, but inherit is pretrained;",
            ),
            ({"inherits": "none"}, r"train\.inherits: unknown key 'inherits'; did you mean 'inherit'\?"),
        ],
        ids=str,
    )
    def test_what_cannot_be_is_said(self, train: dict[str, Any], message: str) -> None:
        with pytest.raises(SpaceError, match=message):
            load(TINY | {"train": train})

    def test_a_space_without_backbones_has_no_weights(self) -> None:
        plain = {"name": "plain", "dimensions": {"a": [0, 1]}, "objectives": {"x": "maximize"}, "search": {"trials": 1}}
        with pytest.raises(SpaceError, match=r"train\.inherit: nearest is for weights of networks; there are no back"):
            load(plain | {"train": {"inherit": "nearest"}})


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """resnet10t trained for two epochs, and its accuracy."""
    space, folder = space_of("parent"), tmp_path_factory.mktemp("parents") / "0"
    *_, last = TimmEvaluator(space, dataset_of(space)).evaluate(RESNET, 2, 0, folder)
    return folder, last.values["accuracy"]


class TestWeights:
    def left(self, heir: Architecture, donors: tuple[Donor, ...], folder: Path, places: Path) -> Measurement:
        """What an heir comes to in an epoch that changes nothing."""
        space = space_of("parent", lr=1e-12)
        work = Assignment(number=7, architecture=heir, seed=0, rungs=(1,), measured=("accuracy",), donors=donors)
        trials, parents = Local(directory=folder / "trials"), Local(directory=places)
        *_, last = carried_out(TimmEvaluator(space, dataset_of(space)), work, trials, parents, devices=1.0)
        return last

    def test_an_unchanged_network_starts_where_its_parent_ended(
        self, parent: tuple[Path, float], tmp_path: Path
    ) -> None:
        donors = (Donor(name="parent", number=0, architecture=RESNET),)
        last = self.left(RESNET, donors, tmp_path, parent[0].parent)
        assert parent[1] > 0.5
        assert last.inherited_from == "parent"
        assert last.values["accuracy"] == pytest.approx(parent[1], abs=0.01)
        ours, theirs = (load_file(f / "model.safetensors") for f in (tmp_path / "trials/7", parent[0]))
        assert torch.allclose(ours["layer1.0.conv1.weight"], theirs["layer1.0.conv1.weight"], atol=1e-6)

    def test_a_narrower_network_starts_better_than_from_scratch(
        self, parent: tuple[Path, float], tmp_path: Path
    ) -> None:
        narrow = Architecture(backbone="resnet10t", choices={"width": 0.75})
        donors = (Donor(name="parent", number=0, architecture=RESNET),)
        inherited = self.left(narrow, donors, tmp_path / "a", parent[0].parent)
        scratch = self.left(narrow, (), tmp_path / "b", parent[0].parent)
        assert scratch.inherited_from is None
        assert inherited.values["accuracy"] > scratch.values["accuracy"] + 0.15

    def test_where_all_donors_are_gone_it_starts_from_scratch_and_says_so(self, tmp_path: Path) -> None:
        narrow = Architecture(backbone="resnet10t", choices={"width": 0.125})
        donors = tuple(Donor(name=number, number=number, architecture=RESNET) for number in (1, 2))
        assert self.left(narrow, donors, tmp_path, tmp_path / "nowhere").inherited_from is None

    def test_a_damaged_donor_is_passed_over(self, parent: tuple[Path, float], tmp_path: Path) -> None:
        narrow = Architecture(backbone="resnet10t", choices={"width": 0.125})
        damaged = tmp_path / "trials/1/model.safetensors"
        damaged.parent.mkdir(parents=True)
        damaged.write_bytes((parent[0] / "model.safetensors").read_bytes()[:5000])
        donors = (Donor(name=1, number=1, architecture=RESNET), Donor(name="parent", number=0, architecture=RESNET))
        assert self.left(narrow, donors, tmp_path, parent[0].parent).inherited_from == "parent"

    def test_the_next_is_taken_for_one_that_is_gone_and_stays_though_it_goes_too(
        self, parent: tuple[Path, float], tmp_path: Path
    ) -> None:
        narrow = Architecture(backbone="resnet10t", choices={"width": 0.25})
        donors = (
            Donor(name=3, number=3, architecture=RESNET),
            Donor(name="parent", number=0, architecture=RESNET),
        )
        first = self.left(narrow, donors, tmp_path, parent[0].parent)
        assert first.inherited_from == "parent"
        (tmp_path / "trials/7/model.safetensors").unlink()
        (tmp_path / "trials/7/training.pt").unlink()
        again = self.left(narrow, donors, tmp_path, tmp_path / "nowhere")
        assert (again.inherited_from, again.values) == ("parent", first.values)


class TestStudy:
    @pytest.fixture
    def evaluator(self) -> TimmEvaluator:
        space = space_of("nearest")
        return TimmEvaluator(space, dataset_of(space))

    def handed(self, study: Study) -> Assignment:
        work = study.next()
        assert isinstance(work, Assignment)
        return work

    def test_from_whom_a_trial_inherits_outlives_a_driver_that_dies(
        self, evaluator: TimmEvaluator, tmp_path: Path
    ) -> None:
        space = space_of("nearest")
        study = studies.begin(tmp_path / "s", space, evaluator, reference_point=POINT)
        first, second = self.handed(study), self.handed(study)
        assert first.donors == second.donors == (), "nothing is evaluated yet"
        study.report(first.number, Measurement(fidelity=1, values={"accuracy": 0.5}))
        heir = self.handed(study)
        while not heir.donors:
            study.report(heir.number, Measurement(fidelity=2, values={"accuracy": 0.5}))
            heir = self.handed(study)
        given = heir.donors[0].name
        study.report(second.number, Measurement(fidelity=1, values={"accuracy": 0.6}))
        study.close()
        resumed = studies.resume(tmp_path / "s", space, evaluator)
        again = [self.handed(resumed) for _ in range(3)]
        same = next(work for work in again if work.number == heir.number)
        assert same.donors[0].name == given
        resumed.report(heir.number, Measurement(fidelity=1, inherited_from=None))
        resumed.close()
        records = {record.number: record for record in results.opened(tmp_path, "s").records()}
        assert records[heir.number].inherited_from is None, "what it was to start from was gone"

    def test_what_has_become_of_parents_is_kept_and_counts(self, tmp_path: Path) -> None:
        file = load(space_of("parent").to_dict() | {"search": {"device_hours": 1.0, "fidelity": {"rungs": [1, 2]}}})
        evaluator = TimmEvaluator(file, dataset_of(file))
        study = studies.begin(tmp_path / "s", file, evaluator, reference_point=POINT)
        study.raised(Parent(number=0, architecture=RESNET, accuracy=0.9, device_s=1800.0))
        assert study.spent["device_hours"] == 0.5
        assert self.handed(study).donors == (Donor(name="parent", number=0, architecture=RESNET),)
        study.close()
        again = studies.resume(tmp_path / "s", file, evaluator)
        assert again.spent["device_hours"] == 0.5
        again.raised(Parent(number=0, architecture=RESNET, reason="it diverged", device_s=3600.0))
        assert again.overspent
        again.close()

    @pytest.mark.parametrize(
        ("before", "now", "holds"),
        [("parent", "parent", True), ("none", "parent", False), ("nearest", "nearest", False), ("none", "none", True)],
    )
    def test_values_of_an_earlier_search_hold_where_trials_start_alike(
        self, evaluator: TimmEvaluator, tmp_path: Path, before: str, now: str, holds: bool
    ) -> None:
        earlier = studies.begin(tmp_path / "s", space_of(before), evaluator, reference_point=POINT)
        work = self.handed(earlier)
        for epoch in (1, 2):
            if earlier._book[work.number].state is State.RUNNING:
                earlier.report(work.number, Measurement(fidelity=epoch, values={"accuracy": 0.5}))
        earlier.close()
        found = warm_start(results.opened(tmp_path, "s"), SearchSpace(space_of(now)), {})
        assert ("other weights to start from" in found.note) != holds
        assert "another recipe" not in found.note


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a search with parents was killed once a parent was there, and has gone on to its end."""
    folder = tmp_path_factory.mktemp("parents")
    space_file(
        folder,
        backbones=[VIT | {"kwargs": VIT["kwargs"] | {"depth": [1, 2]}}],
        search={"trials": 3, "seed": 0, "fidelity": {"rungs": [1, 2], "reduction": 2}},
        train={"lr": 2.0e-3, "inherit": "parent"},
    )
    process = start(folder, "run", "tiny.yaml")
    wait_for(lambda: len(list(folder.glob("runs/tiny/parents/*/model.safetensors"))) == 2, process)
    wait_for(lambda: _known_parents(folder) == 2, process)
    kill(process)
    damaged = folder / "runs/tiny/parents/1/model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:5000])
    _note_times(folder)
    with (folder / "said").open("w") as said:
        run(folder / "tiny.yaml", runs=folder / "runs", name="tiny", resume=True, console=Console(file=said, width=200))
    return folder


def _known_parents(folder: Path) -> int:
    try:
        return len(results.opened(folder / "runs", "tiny").parents)
    except Exception:  # half written
        return 0


def _note_times(folder: Path) -> None:
    times = {str(path): path.stat().st_mtime_ns for path in folder.glob("runs/tiny/parents/*/model.safetensors")}
    (folder / "times").write_text(json.dumps(times))


class TestParents:
    def test_are_trained_once_and_again_on_resume_only_where_their_weights_are_damaged(self, parents: Path) -> None:
        times: dict[str, int] = json.loads((parents / "times").read_text())
        assert len(times) == 2
        changed = [path for path, at in times.items() if Path(path).stat().st_mtime_ns != at]
        assert [Path(path).parent.name for path in changed] == ["1"]
        assert load_file(changed[0])
        said = " ".join((parents / "said").read_text().split())
        assert said.count("are gone or damaged; it is trained again") == 1

    def test_are_no_trials_and_every_trial_starts_from_one(self, parents: Path) -> None:
        study = results.opened(parents / "runs", "tiny")
        trained = [record for record in study.records() if record.state.counts]
        assert len(trained) == 3
        assert {record.inherited_from for record in trained} == {"parent"}
        assert [parent.architecture.kwargs["depth"] for _, parent in sorted(study.parents.items())] == [1, 2]
        assert all(parent.device_s > 0 and parent.accuracy for parent in study.parents.values())

    def test_are_told_everywhere(self, parents: Path) -> None:
        said = " ".join((parents / "said").read_text().split())
        assert "trials start from the weights of their own backbone" in said
        study = results.opened(parents / "runs", "tiny")
        assert {point["inherited_from"] for point in results.front_as_dict(study)["points"]} == {"parent"}
        assert [column.header for column in front_table(study.front).columns][-1] == "started from"
        assert archsearch(parents, "report", "tiny").returncode == 0
        page = (parents / "tiny-report.html").read_text("utf-8")
        assert "<th><button>started from</button></th>" in page
        assert "Trials start from the weights of their own backbone" in page
        trained = [run for run in runs_in_mlflow(parents, "tiny") if run.data.tags["status"] == "complete"]
        assert trained
        assert {run.data.tags["inherited_from"] for run in trained} == {"parent"}


def test_a_confirmation_trains_as_if_nothing_had_been_inherited(tmp_path: Path) -> None:
    """To the last bit, though trials and parents lie beside what it leaves."""
    network = Architecture(backbone=VIT["name"], kwargs=VIT["kwargs"], choices={"width": 0.25})
    found = []
    for inherit in ("parent", "nearest", "none"):
        file = load(space_of(inherit).to_dict() | {"backbones": [VIT]})
        dataset = dataset_of(file)
        for place in ("trials", "parents"):
            list(TimmEvaluator(file, dataset).evaluate(network, 1, 1, tmp_path / inherit / place / "0"))
        folder = tmp_path / inherit / "confirmed/0"
        *_, last = Retrainer(file, dataset, TRAIN)(network, 1, folder)
        assert not (folder / "inherited").exists()
        found.append((last.values, (folder / "model.safetensors").read_bytes()))
    assert found[0] == found[1] == found[2]


def test_a_search_by_the_nearest_says_from_whom_and_keeps_what_it_needs(tmp_path: Path) -> None:
    space = TINY | {
        "backbones": [VIT],
        "search": {"trials": 4, "seed": 0, "fidelity": {"rungs": [1, 2], "reduction": 2}},
        "train": {"lr": 2.0e-3, "inherit": "nearest"},
    }
    del space["constraints"]
    run(space, runs=tmp_path / "runs")
    before = {r.number: r.inherited_from for r in results.opened(tmp_path / "runs", "tiny").records()}
    run(space, runs=tmp_path / "runs", trials=6, name="tiny", resume=True)
    study = results.opened(tmp_path / "runs", "tiny")
    records = {record.number: record for record in study.records() if record.state.counts}
    assert before.items() <= {r.number: r.inherited_from for r in study.records()}.items()
    heirs = [record for record in records.values() if record.inherited_from is not None]
    assert heirs
    for record in heirs:
        assert isinstance(record.inherited_from, int)
        assert records[record.inherited_from].fidelity >= 1
        assert record.inherited_from != record.number
    kept = {int(path.parent.name) for path in study.directory.glob("trials/*/model.safetensors")}
    assert kept == study.spared | {member.number for member in study.front.members}
