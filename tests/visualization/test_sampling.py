"""The figure of a sampling plan."""

import numpy as np
import pytest

from mmoid.openimages.sampling.coverage import ImageLists, plan_sampling
from mmoid.openimages.store.annotation_store import AnnotationStore
from mmoid.visualization import draw_sampling_plans


@pytest.mark.parametrize('epochs', [1, 4])
def test_each_lambda_has_its_curves_and_bars(tiny_data, epochs):
    store = AnnotationStore(tiny_data / 'train')
    plans = [plan_sampling(ImageLists.of_store(store), balance, epochs) for balance in (0, 0.7, 1)]
    figure = draw_sampling_plans(plans)
    drawn, seen, neglected, unseen, totals = figure.axes
    order = np.argsort(-store.class_image_counts(), kind='stable')
    order = order[store.class_image_counts()[order] > 0]
    for ax, of_plan in (
        (drawn, lambda plan: plan.one_epoch.drawn),
        (seen, lambda plan: plan.all_epochs.seen),
        (neglected, lambda plan: plan.one_epoch.neglected),
        (unseen, lambda plan: plan.all_epochs.unseen),
    ):
        curves = [line.get_ydata() for line in ax.lines if str(line.get_label()).startswith('λ')]
        assert np.allclose(curves, [of_plan(plan)[order] for plan in plans])
    assert len(totals.patches) == 3 * (4 if epochs > 1 else 2)
    assert f'{plans[2].all_epochs.images_unseen:.1%}' in [text.get_text() for text in totals.texts]
    assert [text.get_text() for text in drawn.get_legend().get_texts()] == ['λ = 0', 'λ = 0.7', 'λ = 1']
