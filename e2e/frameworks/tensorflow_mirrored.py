"""A few steps of MultiWorkerMirroredStrategy, which reads TF_CONFIG. Argument: a directory for what each task ends with."""

import json
import socket
import sys
from pathlib import Path

import tensorflow as tf

STEPS, BATCH, FEATURES = 20, 32, 4


def main():
    # before anything else: it starts TensorFlow's server
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    resolver = strategy.cluster_resolver
    task = resolver.task_id
    with strategy.scope():
        weights = tf.Variable(tf.zeros([FEATURES, 1]))

    def train(inputs, targets):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(inputs @ weights - targets))
        gradient = tape.gradient(loss, weights)
        context = tf.distribute.get_replica_context()
        gradient = context.all_reduce(tf.distribute.ReduceOp.MEAN, gradient)
        weights.assign_sub(0.1 * gradient)
        return context.all_reduce(tf.distribute.ReduceOp.MEAN, loss)

    @tf.function
    def step(inputs, targets):
        return strategy.run(train, args=(inputs, targets))

    # other samples for each task: the weights are equal only if the gradients of all were
    random = tf.random.Generator.from_seed(task + 1)
    losses = []
    for _ in range(STEPS):
        inputs = random.normal([BATCH, FEATURES])
        targets = tf.reduce_sum(inputs, axis=1, keepdims=True)
        losses.append(float(step(inputs, targets)))
    ended = {
        "cluster": resolver.cluster_spec().as_dict(),
        "type": resolver.task_type,
        "index": task,
        "replicas": strategy.num_replicas_in_sync,
        "host": socket.gethostname(),
        "losses": losses,
        "weights": weights.numpy().ravel().tolist(),
    }
    (Path(sys.argv[1]) / f"{resolver.task_type}-{task}.json").write_text(json.dumps(ended))


main()
