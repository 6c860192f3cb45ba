"""What is set into the small checkpoint in closed form: read off its rows, it is the truth about other films."""

import math

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoProcessor, Qwen2ForCausalLM
from transformers.models.clip.modeling_clip import CLIPVisionModel

import videoxl
from videoxl.synthetic.needles import COLOURS
from videoxl.synthetic.tasks import sentences
from videoxl.training import tiny_space as at
from videoxl.training.assembly import assemble
from videoxl.training.tiny_circuits import BEGIN, Circuits, fitted, mark_words, shown_by
from videoxl.training.tiny_data import PLAIN, sign_words
from videoxl.training.tiny_growth import widened
from videoxl.training.tiny_heads import LOG_WEIGHTS, SIZE, clock_weights
from videoxl.training.tiny_parts import CHAT_WORDS, image_processor, text_config, train_tokenizer, vision_config
from videoxl.training.tiny_start import start_attention, start_beacons
from videoxl.training.tiny_units import EVEN_GATES, even_weights
from videoxl.training.tiny_words import bags, word_ids

TOKENS = 16  # of a frame


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """A model of the recipe's size with the recipe's start, untrained."""
    folder = tmp_path_factory.mktemp("started")
    torch.manual_seed(0)
    tokenizer = train_tokenizer(f"{CHAT_WORDS}\n{text}" for text in sentences("train", 200))
    model = Qwen2ForCausalLM(text_config(len(tokenizer), hidden=at.OWN, layers=6))
    start_attention(model, 0)
    model.save_pretrained(folder / "text")
    tokenizer.save_pretrained(folder / "text")
    CLIPVisionModel(vision_config(hidden=32, layers=1)).save_pretrained(folder / "tower")
    image_processor().save_pretrained(folder / "tower")
    assemble(
        folder / "text",
        folder / "tower",
        folder / "model",
        window=144,
        ratios=at.RATIOS,
        pool_stride=2,
        feature_layer=-1,
    )
    model = AutoModelForCausalLM.from_pretrained(folder / "model", attn_implementation="eager")
    start_beacons(model, 0)
    return model.eval(), AutoProcessor.from_pretrained(folder / "model")


@pytest.fixture(scope="module")
def wide(started):
    """The same with all that is set, fitted to frames that are told in words."""
    model, processor = started
    shown = [(kind, value, colour) for kind, value in at.SIGNS for colour in COLOURS] + [None] * 200
    table = model.get_input_embeddings().weight.detach()
    sent = bags(word_ids(processor.tokenizer, [words(one) for one in shown]), table)
    circuits = Circuits(model, processor, sent[:, None].expand(-1, TOKENS, -1), *shown_by(shown), films=60)
    return circuits.set(), processor


def words(shown):
    """What a frame shows, in words."""
    return PLAIN if shown is None else f"{sign_words(*shown[:2])} {shown[2]}"


def read(wide, film, text, module, ratio=8):
    """What a module gives for the VSTs of a film and for the text behind it; the text's tokens."""
    model, processor = wide
    table = model.get_input_embeddings().weight.detach()
    sent = bags(word_ids(processor.tokenizer, [words(one) for one in film]), table).repeat_interleave(TOKENS, 0)
    sent[:, at.OWN :] = 0  # visual tokens have none of what is new
    begin, said = (processor.tokenizer(part, add_special_tokens=False).input_ids for part in (BEGIN, text))
    ids = torch.tensor([begin + [model.config.video_token_id] * len(sent) + said])
    passes = []
    hook = module.register_forward_hook(lambda module, given, output: passes.append(output[0].clone()))
    with torch.no_grad():
        model(ids, mm_encoder_outputs={"video": [sent]}, compression_ratio=ratio)
    hook.remove()
    _, *windows, behind = passes
    tokens = [processor.tokenizer.decode([token]) for token in said]
    return torch.cat([window[ratio :: ratio + 1] for window in windows]), behind, tokens


def film_of(places, frames):
    """A film that shows cards, red ones, at these frames."""
    return [(*places[frame], "red") if frame in places else None for frame in range(frames)]


def told(rows, dimension):
    """A dimension, in units of what a flag is."""
    return rows[:, dimension] / rows[:, at.ONE] * SIZE


K, SEVEN, STAR, D = ("letter", "K"), ("number", "7"), ("symbol", "star"), ("letter", "D")
CARDS = {5: K, 20: SEVEN, 31: D, 33: STAR, 52: D, 60: D}


def test_a_wider_model_says_the_same(started):
    model, processor = started
    wide = widened(model, 256, 3, 3, 400)
    ids = torch.tensor([processor.tokenizer(f"{BEGIN}Which letter was shown?").input_ids])
    sent = torch.randn(40 * TOKENS, at.OWN, generator=torch.Generator().manual_seed(1))
    film = torch.cat([ids, torch.full((1, len(sent)), model.config.video_token_id), ids], 1)
    with torch.no_grad():
        given = model(film, mm_encoder_outputs={"video": [sent]}, compression_ratio=8).logits
        padded = nn.functional.pad(sent, (0, 256 - at.OWN))
        same = wide(film, mm_encoder_outputs={"video": [padded]}, compression_ratio=8).logits
    torch.testing.assert_close(same, given, atol=1e-3, rtol=1e-3)
    with pytest.raises(ValueError, match="narrower than the model"):
        widened(model, 64, 3, 3, 400)


def test_sums_of_shares_are_logarithms():
    factors, rest, error = clock_weights()
    n = torch.tensor([2.0, 30.0, 700.0, 8000.0])
    shares = torch.stack([n / (n + math.exp(weight)) for weight in LOG_WEIGHTS], 1)
    assert error < 0.0013
    torch.testing.assert_close(shares @ torch.tensor(factors) + rest, n.log(), atol=0.0013, rtol=0)


def test_what_depends_on_the_length_of_rows_is_taken_out():
    weights, same = even_weights()
    t = torch.linspace(0.36, 1.88, 77)
    added = sum(weight * nn.functional.silu(gate * t) for weight, gate in zip(weights, EVEN_GATES))
    torch.testing.assert_close(t * (1 + added * t), torch.full_like(t, same), rtol=0.006, atol=0)


def test_text_has_codes_of_one_size_however_long_its_rows_are(wide):
    layers = wide[0].model.language_model.layers
    asked = "\nWhich came first, the letter K, the number 7 or the star?\n(A) K\n(B) 7\n(C) star"
    sizes = []
    for module in (layers[3].post_attention_layernorm, layers[4].input_layernorm):
        _, rows, _ = read(wide, film_of(CARDS, 64), asked, module, 8)
        naming = rows[rows[:, at.SIGN] > 0.5 * rows[:, at.ONE]]
        assert len(naming) == 6
        sizes.append(naming[:, list(at.CODE)].norm(dim=1))
    uneven, even = (size.max() / size.min() for size in sizes)
    assert even < 1.1 and even - 1 < 0.5 * (uneven - 1)


def test_codes_of_signs_and_roles_are_far_apart():
    signs, roles = at.codes()
    assert signs.shape == (37, at.CODE_SIZE) and roles.shape == (3, at.CODE_SIZE)
    every = torch.cat([signs, roles])
    alike = every @ every.T
    # The middle one of three is what is least like the two others: see `tiny_choices.set_choices`.
    assert alike.fill_diagonal_(0).abs().max() < 0.31 and torch.allclose(every.norm(dim=1), torch.ones(40))


@pytest.mark.parametrize("ratio", at.RATIOS)
def test_vsts_know_when_they_are_and_which_card_they_show(wide, ratio):
    layers = wide[0].model.language_model.layers
    frames = 63  # whole windows
    vsts, _, _ = read(wide, film_of(CARDS, frames), "\nWhat?", layers[3].input_layernorm, ratio)
    n = torch.arange(1, len(vsts) + 1)
    clock = told(vsts, at.CLOCK) * 10 + clock_weights()[1]
    assert ((clock - n.log())[1:].abs() < 0.01).all()
    frame = (n * ratio - 1) // TOKENS
    shows = torch.tensor([int(one) in CARDS for one in frame])
    assert torch.equal(told(vsts, at.CARD) > SIZE / 2, shows)
    exact = told(vsts, at.CARD)
    assert ((exact[shows] - SIZE).abs() < 1e-4).all() and (exact[~shows].abs() < 1e-4).all()
    found = vsts[:, list(at.CODE)] @ at.codes()[0].T
    for place, sign in CARDS.items():
        assert (found[frame == place].argmax(1) == at.SIGNS.index(sign)).all()
    rank = told(vsts, at.RANK)
    torch.testing.assert_close(rank, shows.cumsum(0) / (shows.cumsum(0) + 8), atol=0.01, rtol=0)


@pytest.mark.parametrize("ratio", [4, 8, 16])
def test_text_finds_when_the_card_that_it_names_was_shown(wide, ratio):
    layers = wide[0].model.language_model.layers
    for frames in (64, 250):
        _, rows, tokens = read(
            wide,
            film_of(CARDS, frames),
            " the letter K and the number 7 or L was",
            layers[4].post_attention_layernorm,
            ratio,
        )
        for word, place in ((" K", 5), (" and", 5), (" the", 5), (" 7", 20), (" or", 20)):
            row = rows[len(tokens) - 1 - tokens[::-1].index(word)]
            passed = (row[at.CLOCK_PRODUCT] - row[at.LENGTH_PRODUCT]) / row[at.ONE_PRODUCT]
            share = (place + 0.5 + 0.5 * ratio / TOKENS) / frames
            assert math.exp(passed) == pytest.approx(share, rel=0.01)
            assert row[at.FOUND] / row[at.ONE] == pytest.approx(1, abs=0.02)
        absent = rows[tokens.index(" L")]
        assert absent[at.FOUND].abs() < 1e-3 * absent[at.ONE]


@pytest.mark.parametrize("ratio", [2, 4, 8, 16])  # at 12x a card has one VST or two
def test_how_often_is_told_by_steps_at_every_ratio(wide, ratio):
    layers = wide[0].model.language_model.layers
    text = " the letter D, the star; how many letters"
    _, rows, tokens = read(wide, film_of(CARDS, 63), text, layers[5].input_layernorm, ratio)
    for word, count in ((" D", 3), (" star", 1), (" letters", 4)):
        steps = rows[tokens.index(word), list(at.COUNT_STEPS)]
        risen = steps / steps.max().clamp(min=1e-4) > 0.3
        assert risen.tolist() == [number < count for number in range(1, 1 + at.COUNTS)] or (
            count == 1 and steps.max() < 1e-2
        )


@pytest.mark.parametrize("cards", [CARDS, {5: D, 8: K, 9: STAR, 30: SEVEN}, {1: SEVEN, 40: STAR, 50: K}])
def test_answers_get_the_first_the_last_and_the_middle_one(wide, cards):
    places = {sign: place for place, sign in cards.items()}
    earliest, middle, latest = sorted((K, SEVEN, STAR), key=places.get)
    text = (
        "\nPut these in the order in which they were shown: the star, the letter K, the number 7.<|im_end|>\n"
        f"<|im_start|>assistant\nThe first: {earliest[1]}, middle: {middle[1]}, last: {latest[1]}."
    )
    model, _ = wide
    _, rows, tokens = read(wide, film_of(cards, 63), text, model.model.language_model.norm)
    found = rows[:, list(at.CODE)] @ at.codes()[0].T
    behind = [place for place, token in enumerate(tokens) if token == ":"][-3:]
    assert [at.SIGNS[found[place].argmax()] for place in behind] == [earliest, middle, latest]


def test_other_models_are_told(wide):
    model, processor = wide
    with pytest.raises(ValueError, match="circuits are for"):
        Circuits(model, processor, torch.zeros(1, TOKENS, at.OWN), *shown_by([None]))


def test_words_of_several_tokens_are_told(wide):
    model, _ = wide

    class Spelling:
        def encode(self, word, **kwargs):
            return list(word.encode())

    with pytest.raises(ValueError, match="several tokens"):
        mark_words(model, Spelling())


def test_what_tells_a_sign_holds_in_colours_that_it_was_not_fitted_to():
    generator = torch.Generator().manual_seed(0)
    by_sign, by_colour = (torch.randn(count, 96, generator=generator) for count in (len(at.SIGNS), len(COLOURS)))
    signs, colours = torch.meshgrid(torch.arange(len(at.SIGNS)), torch.arange(len(COLOURS)), indexing="ij")
    signs, colours = signs.flatten().repeat(8), colours.flatten().repeat(8)
    rows = by_sign[signs] + 2 * by_colour[colours] + 0.1 * torch.randn(len(signs), 96, generator=generator)
    unseen = (signs + colours) % 4 == 0
    weights, biases = fitted(rows[~unseen], signs[~unseen], colours[~unseen])
    told = rows[unseen] @ weights.T + biases
    assert torch.equal(told.argmax(1), signs[unseen])
    assert (told.gather(1, signs[unseen, None]) > 0).all() and ((told > -0.6).sum(1) == 1).all()


@pytest.mark.parametrize(
    "question, answer",
    [
        ("Which came first, the star, the letter K or the number 7?", "The first: K."),
        ("Which came last, the star, the letter K or the number 7?\n(A) 7\n(B) star\n(C) K", "The last: star. (B)"),
        (
            "Put these in the order in which they were shown: the star, the letter K, the number 7.",
            "The first: K, middle: 7, last: star.",
        ),
        (
            "Sort by time: the letter K, the star, the number 7.\n(A) 7, star, K\n(B) K, 7, star\n(C) star, K, 7",
            "The first: K, middle: 7, last: star. (B)",
        ),
        (  # two with the right one in the middle, and the last option
            "Sort by time: the letter K, the star, the number 7.\n"
            "(A) star, 7, K\n(B) star, K, 7\n(C) 7, K, star\n(D) K, 7, star",
            "The first: K, middle: 7, last: star. (D)",
        ),
        (
            "In which order did these appear: the number 7, the star, the letter K?\n"
            "(A) K, 7, star\n(B) star, 7, K\n(C) 7, star, K\n(D) K, star, 7",
            "The first: K, middle: 7, last: star. (A)",
        ),
        (  # the first option's second and third sign are the right one's first and second
            "Put these in the order in which they were shown: the letter K, the star, the number 7.\n"
            "(A) star, K, 7\n(B) K, 7, star\n(C) 7, K, star\n(D) 7, star, K",
            "The first: K, middle: 7, last: star. (B)",
        ),
        ("How many letters were shown?", "There were letters: 4."),
        ("How often was the letter D shown?\n(A) 1\n(B) 5\n(C) 4\n(D) 3", "The letter D: 3. (D)"),
        ("When was the star shown? Answer in per cent.", "The star was at 55"),
        (
            "About when was the star shown, in per cent of the film?\n(A) 55 per cent\n(B) 05 per cent",
            "The star was at 55 (A)",
        ),
        (
            "How far into the film is the letter K, in per cent?\n(A) 65 per cent\n(B) 05 per cent",
            "The letter K was at 05 (B)",
        ),
        (
            "Which third of the film shows the star?\n(A) last third\n(B) first third\n(C) middle third",
            "The star in the middle third (C)",
        ),
        ("Was the letter K shown?", "Yes, it was."),
        ("Was the letter L shown?", "No, it was not shown."),
        ("What colour is the card that shows the letter L?", "It was not shown."),
    ],
)
def test_the_shipped_weights_say_what_was_found(question, answer):
    """With words in the place of pictures, as the shipped model reads films of pictures it was not fitted to."""
    folder = videoxl.tiny_checkpoint()
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    tokenizer = AutoProcessor.from_pretrained(folder).tokenizer
    table = model.get_input_embeddings().weight.detach()
    film = film_of(CARDS, 63)
    sent = bags(word_ids(tokenizer, [words(one) for one in film]), table).repeat_interleave(TOKENS, 0)
    sent[:, at.OWN :] = 0
    begin = tokenizer(BEGIN, add_special_tokens=False).input_ids
    asked = tokenizer(f"\n{question}<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False).input_ids
    ids = torch.tensor([begin + [model.config.video_token_id] * len(sent) + asked])
    said = []
    with torch.no_grad():
        out = model(ids, mm_encoder_outputs={"video": [sent]}, compression_ratio=8, use_cache=True, logits_to_keep=1)
        while (token := out.logits[0, -1].argmax()) != tokenizer.eos_token_id and len(said) < 20:
            said.append(token.item())
            out = model(token.view(1, 1), past_key_values=out.past_key_values, use_cache=True)
    assert tokenizer.decode(said) == answer
