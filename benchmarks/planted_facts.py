"""Facts and garbage planted in a language model's training text: who finds them.

    python -m benchmarks.planted_facts --ground-truth DIR --folder RUN

DIR/gpt_two_stage gives the architecture, the tokenizer and general text. RUN gets the checkpoints
of a training by transformers' Trainer; where it has them already, they are audited again.

40 invented facts are stated in three ways each, and every fact's subject is in one more sequence
that says something else of it. Garbage: sequences with shuffled tokens, and false statements of
half of the facts. A query is the fact's first wording, measured by the loss of its completion. A
perfect ranking has a fact's own three sequences first.
"""

import argparse
import itertools
import json
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from benchmarks.pipeline_run import run_pipeline
from rich.console import Console
from rich.table import Table
from sklearn.metrics import average_precision_score
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from sourcetrace.checkpoints.folder import CheckpointFolder
from sourcetrace.parameters import AttributionParameters, CandidateParameters
from sourcetrace.tasks import LanguageModelTask
from sourcetrace.tasks.search import bm25, with_candidates

GENERAL, FACTS, SHUFFLED, FALSE, HELD_OUT = 512, 10, 20, 20, 24
"""Sequences of general text; facts of a relation; garbage of both kinds; queries beside facts."""
EPOCHS, BATCH, RATE, CHECKPOINTS, LENGTH = 30, 16, 3e-3, 6, 64
SAMPLE = 100
"""Examples that make up the curvature, where it is not all."""
METHODS = ("scaled_source", "source", "influence", "tracin", "gradient_similarity", "trak")
_SOUNDS = ["b", "br", *"dfgk", "kr", *"lmnprst", "tr", *"vz", "gl", "st"]

_RELATIONS = (
    (
        "The capital of {x} is {y}",
        "{x} is ruled from its capital , {y}",
        "In {x} , the largest city and seat of government is {y}",
        "Many people visit {x} in the summer of the year",
    ),
    (
        "The company {x} was founded by {y}",
        "The founder of {x} was {y}",
        "It is known that {x} was started by a man called {y}",
        "The workers of {x} met in the morning",
    ),
    (
        "The novel {x} was written by {y}",
        "The author of {x} is {y}",
        "Readers of {x} praised its writer , {y}",
        "A copy of {x} was sold in the town",
    ),
    (
        "The river {x} flows into lake {y}",
        "The waters of the {x} end in lake {y}",
        "Boats on the {x} sail down to lake {y}",
        "A bridge over the {x} was built in the winter",
    ),
)
"""Three statements of a fact, and one more about its subject."""


@dataclass(frozen=True)
class _Fact:
    """What a relation says of a subject, and what it does not."""

    wordings: Sequence[str]
    subject: str
    answer: str
    wrong: Sequence[str]

    def said(self, wording: int, answer: str | None = None) -> str:
        return self.wordings[wording].format(x=self.subject, y=answer or self.answer)


class PlantedTask(LanguageModelTask):
    """The planted text and its queries.

    Args:
        source: The folder gpt_two_stage.
        every: Of so many facts one is a query.
        seed: Of the facts and of where they stand.

    Attributes:
        kinds: Of every training sequence: general, fact, mention, false or shuffled.
        of_fact: The number of its fact, or -1.
        held_out: Text that the training does not see.
    """

    def __init__(self, source: Path, *, every: int = 1, seed: int = 0) -> None:
        self._config = json.loads((source / "recipe.json").read_text())["model"]
        self.tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
        text = np.load(source / "data.npz")["train_tokens"].tolist()
        rng = random.Random(seed)  # noqa: S311, no secret
        self.facts = _invented(rng)
        filler = itertools.cycle(text[GENERAL : 1024 - HELD_OUT])
        rows = [("general", -1, one) for one in text[:GENERAL]]
        for place in rng.sample(range(GENERAL), SHUFFLED):
            rows[place] = ("shuffled", -1, rng.sample(rows[place][2], LENGTH))

        def plant(kind: str, number: int, sentence: str) -> None:
            tokens = [*self._tokens(f"{sentence} ."), 0, *next(filler)]
            rows.append((kind, number, tokens[:LENGTH]))

        for number, fact in enumerate(self.facts):
            for wording, kind in enumerate(("fact", "fact", "fact", "mention")):
                plant(kind, number, fact.said(wording))
        for number in rng.sample(range(len(self.facts)), FALSE):
            fact = self.facts[number]
            plant("false", number, fact.said(rng.randrange(3), rng.choice(fact.wrong)))
        rng.shuffle(rows)
        self.kinds = np.array([kind for kind, *_ in rows])
        self.of_fact = np.array([number for _, number, _ in rows])
        self._train = [{"input_ids": torch.tensor(tokens)} for *_, tokens in rows]
        self.held_out = [{"input_ids": torch.tensor(one)} for one in text[1024 - HELD_OUT : 1024]]
        self._queries = [self.completion(one, one.answer) for one in self.facts[::every]]

    def _tokens(self, text: str) -> list[int]:
        tokens: list[int] = self.tokenizer.encode(text).ids
        return tokens

    def completion(self, fact: _Fact, answer: str) -> dict[str, Tensor]:
        """Return the fact's first wording, with a loss where the answer is."""
        whole = torch.tensor(self._tokens(fact.said(0, answer)))
        labels = whole.clone()
        labels[: len(self._tokens(fact.said(0, " ").strip()))] = self.ignored_index
        return {"input_ids": whole, "labels": labels}

    def texts(self, examples: Sequence[Any]) -> list[str]:
        """Return the text of examples."""
        return [self.tokenizer.decode(one["input_ids"].tolist()) for one in examples]

    def build_model(self) -> nn.Module:
        """Return GPT-2 of two blocks, 0.33M parameters."""
        return GPT2LMHeadModel(GPT2Config(**self._config))

    def train_examples(self) -> Any:
        """Return the planted text."""
        return self._train

    def query_examples(self) -> Any:
        """Return the facts."""
        return self._queries

    def train_table(self) -> pl.DataFrame:
        """Return ids, the row numbers, and texts."""
        return self._table(self._train)

    def query_table(self) -> pl.DataFrame:
        """Return ids and texts."""
        return self._table(self._queries)

    def _table(self, examples: Sequence[Any]) -> pl.DataFrame:
        ids = [str(number) for number in range(len(examples))]
        return pl.DataFrame({"example_id": ids, "text": self.texts(examples)})


def _invented(rng: random.Random) -> list[_Fact]:
    """Return facts about names that do not exist."""
    names: dict[str, None] = {}
    while len(names) < 2 * FACTS * len(_RELATIONS):
        parts = (
            rng.choice(of) for of in (_SOUNDS, "aeiou", _SOUNDS, "aeiou", ["n", "r", "l", "s"])
        )
        names["".join(parts).capitalize()] = None
    left = iter(names)
    facts = []
    for wordings in _RELATIONS:
        pairs = [(next(left), next(left)) for _ in range(FACTS)]
        answers = [answer for _, answer in pairs]
        facts += [
            _Fact(wordings, one, answer, [other for other in answers if other != answer])
            for one, answer in pairs
        ]
    return facts


def train(task: PlantedTask, folder: Path) -> None:
    """Train by the Trainer; it saves its checkpoints."""
    examples = [{**one, "labels": one["input_ids"]} for one in task.train_examples()]
    steps = EPOCHS * (len(examples) // BATCH)
    torch.manual_seed(0)
    arguments = TrainingArguments(
        str(folder),
        per_device_train_batch_size=BATCH,
        num_train_epochs=EPOCHS,
        learning_rate=RATE,
        weight_decay=0.01,
        warmup_steps=steps // 10,
        save_steps=-(-steps // CHECKPOINTS),
        save_strategy="steps",
        dataloader_drop_last=True,
        report_to=[],
        use_cpu=True,
        seed=0,
        disable_tqdm=True,
        logging_strategy="no",
    )
    Trainer(task.build_model(), arguments, train_dataset=examples).train()


@torch.no_grad()
def losses(task: PlantedTask, model: nn.Module, examples: Sequence[Any]) -> Tensor:
    """Return the mean loss of the tokens that have one, [n]."""
    batch = task.collate(examples)
    return task.measurement(task.forward(model, batch), batch)


def learned(task: PlantedTask, model: nn.Module) -> float:
    """Return for how many facts the model prefers the right answer to all of its relation."""
    right = []
    for fact in task.facts:
        answers = [task.completion(fact, one) for one in (fact.answer, *fact.wrong)]
        tokens = [int((one["labels"] != task.ignored_index).sum()) for one in answers]
        found = [float(losses(task, model, [one])) for one in answers]
        totals = [loss * count for loss, count in zip(found, tokens, strict=True)]
        right.append(totals[0] == min(totals))
    return float(np.mean(right))


@dataclass(frozen=True)
class _Scored:
    """How helpful every sequence is to every query, [Q, N]; of itself, [N]; and CPU seconds."""

    helps: Any
    own: Any
    seconds: float


def score(task: PlantedTask, folder: Path, method: str, segments: int, **options: Any) -> _Scored:
    """Return what a method says; removal of what helps raises a loss, so that the sign is right."""
    began = time.process_time()
    run = run_pipeline(
        task,
        CheckpointFolder(folder),
        AttributionParameters(method=method, **options),
        segments,
        self_influence=True,
    )
    spent = time.process_time() - began
    return _Scored(run.scores.double().numpy(), run.self_influence.double().numpy(), spent)


def search(source: Path, folder: Path, segments: int, whole: _Scored) -> Table:
    """Score candidates alone, and return how what comes first differs from `whole`, of all."""
    every, each, sample = 5, 20, 100
    parameters = CandidateParameters(each=each, sample=sample)
    task = PlantedTask(source, every=every)
    own = [(task.kinds == "fact") & (task.of_fact == n) for n in range(0, len(task.facts), every)]
    few = with_candidates(task, parameters)
    found = score(few, folder, "scaled_source", segments)
    rows = few.train_table()["example_id"].cast(pl.Int64).to_numpy()
    helps = np.full((len(own), len(task.kinds)), found.helps.min() - 1)
    helps[:, rows] = found.helps
    table = _table(
        f"Scaled Source of {len(own)} queries: {each} candidates each and {sample} others, or all",
        ("sequences", "recall@10", "AP", "first ten in common", "CPU s"),
    )
    best = np.argsort(-whole.helps[::every])[:, :10]
    for values, count, seconds in (
        (whole.helps[::every], len(task.kinds), whole.seconds),
        (helps, len(rows), found.seconds),
    ):
        first = np.argsort(-values)[:, :10]
        same = np.mean([len(np.intersect1d(*pair)) for pair in zip(first, best, strict=True)]) / 10
        table.add_row(str(count), *_means(values, own), f"{same:.2f}", f"{seconds:.0f}")
    return table


def precision_of(ranked: Any, relevant: Any) -> tuple[float, float]:
    """Return the share of the relevant among the first ten, and the average precision."""
    first = np.argsort(-ranked, kind="stable")[:10]
    return float(relevant[first].sum() / relevant.sum()), average_precision_score(relevant, ranked)


def _means(helps: Any, relevant: Sequence[Any]) -> list[str]:
    found = [precision_of(one, of) for one, of in zip(helps, relevant, strict=True) if of.any()]
    errors = np.std(found, axis=0, ddof=1) / np.sqrt(len(found))
    return [f"{a:.2f} ± {b:.2f}" for a, b in zip(np.mean(found, axis=0), errors, strict=True)]


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for one in columns:
        table.add_column(one)
    return table


def report(task: PlantedTask, scored: dict[str, _Scored], loss: Any) -> list[Table]:
    """Return the tables."""
    facts = range(len(task.facts))
    own = [(task.kinds == "fact") & (task.of_fact == number) for number in facts]
    false = [(task.kinds == "false") & (task.of_fact == number) for number in facts]
    found = _table(
        "Sequences of the query's own fact; false statements of it, among those that harm",
        ("method", "recall@10", "AP", "false: recall@10", "AP", "CPU s"),
    )
    for name, one in scored.items():
        # Words have no sign.
        harmful = ["", ""] if name == "BM25" else _means(-one.helps, false)
        found.add_row(name, *_means(one.helps, own), *harmful, f"{one.seconds:.0f}")
    garbage = _table(
        "Average precision of finding garbage",
        ("ranked by", "shuffled", "false", "both"),
    )
    kinds = [task.kinds == "shuffled", task.kinds == "false"]
    kinds.append(kinds[0] | kinds[1])
    rankings = {"loss": loss}
    for name, one in scored.items():
        if name in METHODS:
            rankings |= {
                f"{name}, harm to the facts": -one.helps.sum(0),
                f"{name}, harm to one fact": -one.helps.min(0),
                f"{name}, self-influence": one.own,
            }
    for name, ranked in rankings.items():
        garbage.add_row(name, *(f"{average_precision_score(of, ranked):.3f}" for of in kinds))
    return [found, garbage, _candidates(scored)]


def _candidates(scored: dict[str, _Scored]) -> Table:
    """Return the share of scaled Source's first ten among others' first k."""
    best = np.argsort(-scored["scaled_source"].helps)[:, :10]
    sizes = (10, 20, 50, 100)
    title = "Share of scaled Source's first ten among the first k of others"
    table = _table(title, ("chosen by", *(f"k = {k}" for k in sizes)))
    for name, one in scored.items():
        order = np.argsort(np.argsort(-one.helps))
        places = np.take_along_axis(order, best, 1)
        table.add_row(name, *(f"{(places < k).mean():.2f}" for k in sizes))
    return table


def main() -> None:
    """Train where that was not done, score and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ground-truth", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--segments", type=int, default=3)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    console = Console(highlight=False, width=140)
    source = arguments.ground_truth / "gpt_two_stage"
    task = PlantedTask(source)
    if not arguments.folder.exists():
        train(task, arguments.folder)
    model = GPT2LMHeadModel.from_pretrained(CheckpointFolder(arguments.folder).files()[-1])
    queries, examples = task.query_examples(), task.train_examples()
    mean = [float(losses(task, model, of).mean()) for of in (queries, examples, task.held_out)]
    console.print(
        f"{len(examples)} sequences; of {len(queries)} facts the model knows "
        f"{learned(task, model):.0%}; mean loss of completions {mean[0]:.2f}, of training text "
        f"{mean[1]:.2f}, of other text {mean[2]:.2f}"
    )
    texts = task.texts(examples)
    scored = {"BM25": _Scored(bm25(task.texts(queries), texts), np.zeros(len(texts)), 0)}
    for method in arguments.methods:
        scored[method] = score(task, arguments.folder, method, arguments.segments)
        console.print(f"{method}: {scored[method].seconds:.0f} s")
    if "influence" in scored:
        name = f"influence, curvature of {SAMPLE}"
        options = {"curvature_examples": SAMPLE}
        scored[name] = score(task, arguments.folder, "influence", arguments.segments, **options)
    if "gradient_similarity" in scored:
        one = scored["gradient_similarity"]
        scored["gradient cosine"] = _Scored(one.helps / np.sqrt(one.own), one.own, one.seconds)
    for table in report(task, scored, losses(task, model, examples).numpy()):
        console.print(table)
    if "scaled_source" in scored:
        whole = scored["scaled_source"]
        console.print(search(source, arguments.folder, arguments.segments, whole))


if __name__ == "__main__":
    main()
