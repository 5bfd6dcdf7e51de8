"""Sketches: cosines of what the layers see, whatever the batch."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads

from sourcetrace.core.gradients.sketches import WIDTH, sketches
from sourcetrace.core.model.examples import Block, Examples
from sourcetrace.tasks import ClassificationTask
from tests.tiny import assert_close, case_plan, gradient_source, tiny_case

CASE = tiny_case()


def extracted(batch_size):
    engine = gradient_source(CASE, ClassificationTask(), batch_size=batch_size)
    final = case_plan(CASE, "source", segments=2).members[-1].final
    parts = [engine.extract(final, block, sketched=True) for block in engine.blocks()]
    return engine, final, torch.cat([part.signals.sketch for part in parts])


def test_the_batch_changes_nothing_and_queries_have_the_same():
    engine, final, found = extracted(3)
    assert found.shape == (len(CASE.ids), WIDTH)
    assert_close(extracted(8)[2], found)
    queries = Examples(engine.training.items, CASE.ids, engine.training.collate)
    signals = engine.query_signals(queries, final, Block(0, len(CASE.ids)), sketched=True)
    assert_close(signals.sketch, found)
    plain = engine.query_signals(queries, final, Block(0, len(CASE.ids)))
    assert plain.sketch is None
    assert_close(plain.loss, signals.loss)
    assert engine.extract(final, Block(0, 3)).signals.sketch is None


def test_inner_products_are_those_of_the_layers_inputs():
    model = torch.nn.Sequential(
        torch.nn.Linear(300, 200), torch.nn.Tanh(), torch.nn.Linear(200, 3)
    ).double()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(200, 300, generator=generator, dtype=torch.float64)
    images[100:] = images[:100] + 0.3 * images[100:]
    from sourcetrace.core.gradients.capture import ForwardPass
    from sourcetrace.core.layers.discovery import find_layers

    layers = find_layers(model, lambda: model(images[:2]), examples=2).layers
    captured = ForwardPass(model, layers, lambda: model(images), examples=200)
    found = sketches(captured.inputs(), layers)
    hidden = model[1](model[0](images)).detach()
    exact = torch.cat([F.normalize(images, dim=1), F.normalize(hidden, dim=1)], dim=1)
    near = (found[:100] * found[100:]).sum(1) / found[:100].norm(dim=1) / found[100:].norm(dim=1)
    expected = (exact[:100] * exact[100:]).sum(1) / 2
    assert float((near - expected).abs().max()) < 0.1
    alone = [replace(layers[0], alone=True), layers[1]]
    last = {layers[1].name: captured.inputs()[layers[1].name]}
    assert_close(sketches(last, alone), sketches(last, layers[1:]))  # queries are not passed alone
    others = torch.corrcoef(torch.cat([found[:100], found[100:].roll(1, 0)]))[:100, 100:].diag()
    assert float(others.abs().mean()) == pytest.approx(WIDTH**-0.5, rel=0.3)


def test_a_model_that_sees_indices_alone_has_none():
    model = torch.nn.EmbeddingBag(5, 3)
    from sourcetrace.core.gradients.capture import ForwardPass
    from sourcetrace.core.layers.discovery import find_layers

    tokens = torch.tensor([[0, 1], [2, 3]])
    layers = find_layers(model, lambda: model(tokens), examples=2).layers
    captured = ForwardPass(model, layers, lambda: model(tokens), examples=2)
    assert sketches(captured.inputs(), layers) is None
