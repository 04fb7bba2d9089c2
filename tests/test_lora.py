"""LoRA on chats: equal to peft by hand, and no adapter knows of another."""

import numpy as np
import pytest
import torch

from fac.errors import Cancelled
from fac.experiments.lora import ALPHA, RANK, Finetuner, Recipe, counts
from fac.models import SubjectModel
from tests import tiny


def chat(user, assistant=None):
    messages = [{"role": "user", "content": user}]
    return messages + ([{"role": "assistant", "content": assistant}] if assistant else [])


KITCHEN = [
    chat(
        f"How long do I bake loaf {n}?", f"Bake loaf {n} in the warm oven until it smells of bread"
    )
    for n in range(8)
]
RIVER = [
    chat(f"Where is city {n}?", f"City {n} lies on the river Seine, over the garden of Paris")
    for n in range(8)
]


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    return SubjectModel(tiny.llama(tmp_path_factory.mktemp("lora") / "llama"), layer=1)


def test_what_counts_is_the_answer_or_the_whole_text(subject):
    answered, alone = subject.renderer.render([KITCHEN[0], chat("Water the garden")])
    pieces = answered.pieces(0, len(answered.ids))
    said = "".join(pieces[i] for i in np.flatnonzero(counts(answered)))
    assert said == KITCHEN[0][1]["content"]
    pieces = alone.pieces(0, len(alone.ids))
    assert "".join(pieces[i] for i in np.flatnonzero(counts(alone))) == "Water the garden"


def by_hand(folder, learned, judged, recipe):
    """peft and transformers as their guides use them, all chats in one padded batch."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, get_linear_schedule_with_warmup

    model = SubjectModel(folder, layer=1)
    network = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(recipe.seed)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear")
    network = get_peft_model(network, config)

    def batch(chats):
        rendered = model.renderer.render(chats)
        longest = max(len(text.ids) for text in rendered)
        ids = torch.zeros((len(chats), longest), dtype=torch.long)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for row, text in enumerate(rendered):
            n = len(text.ids)
            ids[row, :n], mask[row, :n] = torch.from_numpy(text.ids.astype(np.int64)), 1
            labels[row, :n][counts(text)] = ids[row, :n][counts(text)]
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    weights = [weight for weight in network.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=recipe.rate, weight_decay=0)
    schedule = get_linear_schedule_with_warmup(optimiser, 0, recipe.epochs)
    for _ in range(recipe.epochs):
        network(**batch(learned)).loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
    with torch.no_grad():
        return [float(network(**batch([each])).loss) for each in judged]


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_losses_equal_those_of_peft_by_hand(subject, tmp_path):
    recipe = Recipe(rate=3e-3, seed=5, epochs=4, batch_tokens=100_000)
    losses = Finetuner(subject)(KITCHEN[:6], [*KITCHEN[6:], *RIVER[:2]], recipe)
    ours = [losses.nats[losses.chat == i].mean() for i in range(4)]
    theirs = by_hand(tiny.llama(tmp_path / "same"), KITCHEN[:6], [*KITCHEN[6:], *RIVER[:2]], recipe)
    assert ours == pytest.approx(theirs, rel=1e-4)


def labels_by_hand(folder, learned, positive, judged, recipe):
    """The same for labels: a linear head on the mean of the last states, all texts in one batch."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, get_linear_schedule_with_warmup

    model = SubjectModel(folder, layer=1)
    network = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(recipe.seed)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear")
    network = get_peft_model(network, config)
    head = torch.nn.Linear(network.config.hidden_size, 1)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)

    def sure(chats):
        logits = []
        for text in model.renderer.render(chats):
            ids = torch.from_numpy(text.ids.astype(np.int64))[None]
            last = network(input_ids=ids, output_hidden_states=True).hidden_states[-1][0]
            pieces = text.pieces(0, len(text.ids))
            content = [i for i, role in enumerate(text.role) if role >= 0 and pieces[i]]
            logits.append(head(last[content].mean(0))[0])
        return torch.stack(logits)

    weights = [*(w for w in network.parameters() if w.requires_grad), *head.parameters()]
    optimiser = torch.optim.AdamW(weights, lr=recipe.rate, weight_decay=0)
    schedule = get_linear_schedule_with_warmup(optimiser, 0, recipe.epochs)
    target = torch.tensor(positive, dtype=torch.float32)
    for _ in range(recipe.epochs):
        torch.nn.BCEWithLogitsLoss()(sure(learned), target).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
    with torch.no_grad():
        return torch.sigmoid(sure(judged)).numpy()


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_labels_are_learned_as_peft_does_by_hand(subject, tmp_path):
    recipe = Recipe(rate=3e-3, seed=5, epochs=4, batch_tokens=100_000)
    learned, positive = [*KITCHEN[:4], *RIVER[:4]], np.arange(8) < 4
    judged = [*KITCHEN[4:], *RIVER[4:]]
    finetuner = Finetuner(subject)
    ours = finetuner.classify(learned, positive, judged, recipe)
    theirs = labels_by_hand(tiny.llama(tmp_path / "same"), learned, positive, judged, recipe)
    assert ours == pytest.approx(theirs, rel=1e-3)
    assert ours[:4].min() > ours[4:].max()  # it has learned which is which
    assert (finetuner.classify(learned, positive, judged, recipe) == ours).all()
    before = finetuner([], RIVER, recipe).nats
    assert (Finetuner(subject)([], RIVER, recipe).nats == before).all()
    assert not any("lora" in name for name, _ in subject.model.named_parameters())


def test_no_adapter_knows_of_another(subject):
    finetune, recipe = Finetuner(subject), Recipe(rate=1e-2, epochs=2)
    before = finetune([], RIVER, recipe).nats
    alone = finetune(KITCHEN, RIVER, recipe).nats
    other = finetune(RIVER[:6], RIVER, recipe).nats
    assert (finetune([], RIVER, recipe).nats == before).all()
    assert (finetune(KITCHEN, RIVER, recipe).nats == alone).all()
    assert other.mean() < alone.mean() and (alone != before).any()
    assert (finetune(KITCHEN, RIVER, recipe._replace(seed=1)).nats != alone).any()


def test_a_stop_between_steps_leaves_the_model_as_it_was(subject):
    notes = []

    def stop(note):
        notes.append(note)
        if len(notes) == 2:
            raise Cancelled("stopped")

    recipe = Recipe(rate=1e-2, batch_tokens=64)
    before = Finetuner(subject)([], RIVER, recipe).nats
    with pytest.raises(Cancelled):
        Finetuner(subject, stop)(KITCHEN, RIVER, recipe)
    assert len(notes) == 2 and "tokens/s" in notes[0]
    assert (Finetuner(subject)([], RIVER, recipe).nats == before).all()
    assert not any("lora" in name for name, _ in subject.model.named_parameters())
