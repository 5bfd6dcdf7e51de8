"""The queries' gradients, refused where they are no numbers."""

import pytest
import torch

from sourcetrace.core.model.examples import Examples
from sourcetrace.core.responses.queries import QueryGradients
from sourcetrace.errors import InputError
from sourcetrace.tasks import ClassificationTask
from tests.tiny import case_plan, gradient_source, tiny_case


class RootOfNothing(ClassificationTask):
    """A finite measurement whose derivative is 0 / 0 for the second query."""

    def measurement(self, outputs, batch):
        second = torch.arange(len(outputs)) == 1
        return super().measurement(outputs, batch) + (0 * outputs[:, 0]).where(second, 1).sqrt()


def test_a_gradient_that_is_no_number_names_its_query():
    case, task = tiny_case(), RootOfNothing()
    engine = gradient_source(case, task)
    items = list(zip(case.query_images, case.query_labels, strict=True))
    queries = Examples(items, ["q1", "q2", "q3"], task.collate)
    (member,) = case_plan(case, "source", segments=1).members
    with pytest.raises(InputError, match=r"^The query 'q2' has a NaN or infinite gradient"):
        QueryGradients.of(engine, member, queries)
