import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import data

# A new augmentation is one row: (with an effect, without one, does it keep the dtype).
AUGMENTATIONS = {
    "shift": (data.shift(max_pixels=3), data.shift(max_pixels=0), True),
    "crop": (data.crop(padding=3), data.crop(padding=0), True),
    "crop reflect": (data.crop(padding=3, mode="reflect"), data.crop(padding=0, mode="reflect"), True),
    "flip": (data.flip(), data.flip(probability=0.0), True),
    "cutout": (data.cutout(size=3), data.cutout(size=0), True),
    "affine": (data.affine(max_degrees=20.0, max_scale=0.2, max_shift=1.5), data.affine(), False),
    "chain": (
        data.chain(augmentations=(data.flip(), data.shift(max_pixels=3))),
        data.chain(augmentations=()),
        True,
    ),
}


# Compiled once for all tests.
COMPILED = {name: jax.jit(row[0]) for name, row in AUGMENTATIONS.items()}


@pytest.fixture(params=AUGMENTATIONS)
def name(request):
    return request.param


@pytest.fixture
def row(name):
    return AUGMENTATIONS[name]


@pytest.fixture
def augmentation(name):
    return COMPILED[name]


def batch_of(dtype, size=32, height=8, width=6):
    image = np.random.default_rng(0).integers(1, 17, (size, height, width, 2)).astype(dtype)
    return {"image": jnp.asarray(image), "label": jnp.arange(size), "mask": jnp.arange(size) < size - 1}


def test_without_strength_nothing_changes(row):
    batch = batch_of(np.uint8)
    result = row[1](batch, jax.random.key(0))["image"]
    np.testing.assert_array_equal(
        np.asarray(result, np.float32), np.asarray(batch["image"], np.float32), strict=True
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, jnp.bfloat16])
def test_shape_and_dtype(row, dtype):
    batch = batch_of(dtype)
    result = jax.eval_shape(row[0], batch, jax.random.key(0))["image"]
    assert result.shape == batch["image"].shape
    assert result.dtype == (dtype if row[2] else np.float32)


def test_other_fields_are_untouched(augmentation):
    batch = batch_of(np.float32)
    result = augmentation(batch, jax.random.key(0))
    assert result.keys() == batch.keys()
    for field in ("label", "mask"):
        np.testing.assert_array_equal(result[field], batch[field], strict=True)


def test_the_same_key_draws_the_same_and_another_key_does_not(augmentation):
    batch = batch_of(np.float32)
    first, again, other = (augmentation(batch, jax.random.key(seed))["image"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert bool((first != other).any())


def test_examples_draw_apart(augmentation):
    batch = batch_of(np.float32)
    same = batch | {"image": jnp.broadcast_to(batch["image"][:1], batch["image"].shape)}
    results = np.asarray(augmentation(same, jax.random.key(0))["image"])
    assert len(np.unique(results, axis=0)) > 1


def test_jit_equals_eager(row, augmentation):
    batch = batch_of(np.float32)
    eager, compiled = (change(batch, jax.random.key(0))["image"] for change in (row[0], augmentation))
    # Only what interpolates rounds, and XLA may contract a product and a sum: values up to 17.
    np.testing.assert_allclose(eager, compiled, rtol=0, atol=2e-5)


def test_no_retrace_at_the_second_call(augmentation):
    before = augmentation._cache_size()
    for seed in (3, 4):
        augmentation(batch_of(np.float32), jax.random.key(seed))
    assert augmentation._cache_size() <= max(before, 1)


def test_what_is_no_image_is_refused(row):
    with pytest.raises(ValueError, match="wanted 'image' among them"):
        row[0]({"label": jnp.zeros(3)}, jax.random.key(0))
    with pytest.raises(ValueError, match=r"image: came float32\[3,8,8\]"):
        row[0]({"image": jnp.zeros((3, 8, 8))}, jax.random.key(0))
    with pytest.raises(TypeError, match=r"jax.random.key\(seed\)"):
        row[0](batch_of(np.float32), 0)


def moved(image, rows, columns):
    """The image moved down and to the right, by numpy, with zeros coming in."""
    height, width, _ = image.shape
    far = np.pad(image, ((height, height), (width, width), (0, 0)))
    return far[height - rows : 2 * height - rows, width - columns : 2 * width - columns]


def test_a_shift_is_one_of_all_shifts_and_all_occur():
    batch = batch_of(np.uint8, size=256)
    results = np.asarray(data.shift(max_pixels=1)(batch, jax.random.key(0))["image"])
    drawn = []
    for image, result in zip(np.asarray(batch["image"]), results):
        fits = [(r, c) for r in (-1, 0, 1) for c in (-1, 0, 1) if np.array_equal(moved(image, r, c), result)]
        assert len(fits) == 1
        drawn += fits
    # 256 draws of 9: the chance that one never occurs is 9 * (8 / 9)**256 = 7e-13.
    assert len(set(drawn)) == 9


def test_a_flip_is_the_mirror_image_half_of_the_time():
    batch = batch_of(np.uint8, size=400)
    image = np.asarray(batch["image"])
    result = np.asarray(data.flip()(batch, jax.random.key(0))["image"])
    mirrored = np.array([np.array_equal(r, i[:, ::-1]) for r, i in zip(result, image)])
    same = np.array([np.array_equal(r, i) for r, i in zip(result, image)])
    assert np.all(mirrored != same)
    # Binomial of 400: 200 +- 10; 5 sigma.
    assert abs(mirrored.sum() - 200) < 50


def test_cutout_is_a_square_cut_off_at_the_edge():
    image = jnp.ones((200, 8, 6, 1))
    holes = 1 - np.asarray(data.cutout(size=3)({"image": image}, jax.random.key(0))["image"])[..., 0]
    rows, columns = holes.any(axis=2).sum(axis=1), holes.any(axis=1).sum(axis=1)
    np.testing.assert_array_equal(holes.sum(axis=(1, 2)), rows * columns)  # a full rectangle
    # Its centre is a pixel, so of 3 rows at least 2 are inside.
    assert set(rows) == set(columns) == {2, 3}
    assert holes.any(axis=0).all()  # every pixel is hit: the rarest, a corner, at (2 / 8) (2 / 6) a draw


def test_a_turn_by_a_quarter_is_rot90(monkeypatch):
    # With every draw at 1, the angle is max_degrees: an exact quarter turn on a square image.
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape, **_: jnp.ones(shape))
    batch = batch_of(np.float32, size=2, height=7, width=7)
    result = data.affine(max_degrees=90.0)(batch, jax.random.key(0))["image"]
    # Up to 17 times the rounding of cos(pi / 2), 4e-8, times the distance from the centre.
    np.testing.assert_allclose(result, np.rot90(batch["image"], axes=(1, 2)), atol=1e-4)


def test_scale_and_shift_by_hand(monkeypatch):
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape, **_: jnp.ones(shape))
    ramp = {"image": jnp.arange(1.0, 6.0).reshape(1, 1, 5, 1)}
    # Half a pixel right: pixel x is the mean of x - 1 and x; zero comes in from the left.
    half = data.affine(max_shift=0.5)({"image": jnp.tile(ramp["image"], (1, 3, 1, 1))}, jax.random.key(0))
    # Also half a pixel down: the rows are alike but for the first, which is half of zeros.
    np.testing.assert_allclose(half["image"][0, 1, :, 0], [0.5, 1.5, 2.5, 3.5, 4.5], atol=1e-6)
    np.testing.assert_allclose(half["image"][0, 0, :, 0], [0.25, 0.75, 1.25, 1.75, 2.25], atol=1e-6)
    # Magnified 1.5 times about the middle, 3: pixel x shows 3 + (x - 3) / 1.5.
    zoomed = data.affine(max_scale=0.5)(ramp, jax.random.key(0))
    np.testing.assert_allclose(
        zoomed["image"][0, 0, :, 0], [3 - 4 / 3, 3 - 2 / 3, 3, 3 + 2 / 3, 3 + 4 / 3], atol=1e-5
    )


def test_zeros_come_from_outside():
    image = {"image": jnp.ones((64, 8, 8, 1))}
    result = data.affine(max_shift=3.0)(image, jax.random.key(0))["image"]
    assert float(result.min()) == 0.0
    assert float(result.max()) <= 1.0 + 1e-6


def test_chain_gives_each_its_own_key():
    keys = []

    def note(batch, key):
        keys.append(jax.random.key_data(key).tolist())
        return batch

    data.chain(augmentations=(note, note))(batch_of(np.float32), jax.random.key(0))
    assert keys[0] != keys[1]


def test_chain_goes_in_order():
    plus, twice = (lambda b, k: {"x": b["x"] + 1}), (lambda b, k: {"x": b["x"] * 2})
    result = data.chain(augmentations=(plus, twice))({"x": jnp.array(3.0)}, jax.random.key(0))
    assert float(result["x"]) == 8.0
    # What can be read once only is read once.
    result = data.chain(augmentations=iter((plus, twice)))({"x": jnp.array(3.0)}, jax.random.key(0))
    assert float(result["x"]) == 8.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: data.shift(max_pixels=-1), "max_pixels: came -1"),
        (lambda: data.crop(padding=-1), "padding: came -1"),
        (lambda: data.crop(padding=1, mode="refelct"), "mode: came 'refelct', wanted one of constant, edge"),
        (lambda: data.flip(probability=1.5), "probability: came 1.5"),
        (lambda: data.cutout(size=-1), "size: came -1"),
        (lambda: data.affine(max_scale=1.0), "max_scale: came 1.0"),
        (lambda: data.affine(max_degrees=-1.0), "max_degrees: came -1"),
    ],
)
def test_strengths_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "name"), [(data.shift, "max_pixels"), (data.crop, "padding"), (data.cutout, "size")]
)
def test_pixels_are_whole(make, name):
    with pytest.raises(TypeError, match=rf"{name}: came 2\.5 \(float\), wanted a whole number >= 0"):
        make(**{name: 2.5})


def test_chain_wants_functions():
    with pytest.raises(TypeError, match=r"augmentations\[1\]: came 'flip'"):
        data.chain(augmentations=(data.flip(), "flip"))
