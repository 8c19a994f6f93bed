"""Hands the pictures of a WebDataset to a decoder.

    python images.py train-0000.tar ..

On a GPU, nvJPEG (torchvision's `decode_jpeg`) takes the bytes where they lie; on the host PIL does.
"""

import io
import sys

import strait


def decoder(cuda: bool):
    """What makes a picture of a sample's bytes."""
    if cuda:
        from torchvision.io import decode_jpeg

        return lambda sample: decode_jpeg(sample.torch(), device="cuda")
    from PIL import Image

    return lambda sample: Image.open(io.BytesIO(memoryview(sample.numpy()))).convert("RGB")


def main() -> None:
    loader = strait.Loader(sys.argv[1:], batch_size=32, shuffle=True, fields=["jpg", "cls"])
    decode = decoder(loader.stats()["device"].startswith("cuda"))
    pictures = 0
    for batch in loader:
        labels = batch["cls"].integers()
        for sample, label in zip(batch["jpg"], labels):
            picture = decode(sample)
            pictures += 1
            if pictures == 1:
                print(f"the first picture: {getattr(picture, 'size', None)}, label {label}")
    print(f"{pictures} pictures")


if __name__ == "__main__":
    main()
