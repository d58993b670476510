"""A textbook Keras program with one line more: the callback."""

import os
import sys

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np

import foretune_report.keras

keras.utils.set_random_seed(0)
x = np.random.default_rng(0).normal(size=(256, 8)).astype("float32")
y = (x[:, 0] > 0).astype("int32")
model = keras.Sequential([keras.layers.Input((8,)), keras.layers.Dense(2, activation="softmax")])
model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
history = model.fit(
    x,
    y,
    epochs=int(sys.argv[1]),
    validation_data=(x, y),
    verbose=0,
    callbacks=[foretune_report.keras.Callback()],
)
print("epochs", len(history.history["accuracy"]))
