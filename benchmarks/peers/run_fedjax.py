"""FedJAX: its for_each_client with jit, look-ups in place of one-hot inputs, autodiff, Optax' Adam.

FedJAX's own fed_avg trains on batches of shuffled examples without a state between them; the
algorithm below is that one with the recurrent state carried from step to step.
"""

from importlib.metadata import version

import common
import jax
import jax.numpy as jnp
import numpy as np

jax.tree_map = jax.tree.map  # FedJAX calls it by the name that it had before JAX 0.10

import fedjax  # noqa: E402


def main():
    args = common.arguments(__doc__).parse_args()
    work = common.load(args)
    s = work.settings
    optimizer = fedjax.optimizers.adam(s["client_lr"], eps=1e-7)
    num_rows = s["num_rows"]

    def forward(params, batch, state, key=None):
        rows, numbers = batch["rows"], batch["numbers"]
        known = (rows >= 0).astype(jnp.float32)
        found = jnp.maximum(rows, 0)
        if key is not None and s["dropout"] > 0:
            shape = (rows.shape[0], num_rows + numbers.shape[-1])
            scale = jax.random.bernoulli(key, 1 - s["dropout"], shape) / (1 - s["dropout"])
            by_row = scale[:, None, :num_rows]
            known *= jnp.take_along_axis(
                jnp.broadcast_to(by_row, (*rows.shape[:2], num_rows)), found, axis=2
            )
            numbers = numbers * scale[:, None, num_rows:]
        looked_up = (params["rows"][found] * known[..., None]).sum(2)
        gates = looked_up + numbers @ params["numbers"] + params["bias"][0]

        def step(h, gates_t):
            pulled = h @ params["recurrent"] + params["bias"][1]
            zx, rx, cx = jnp.split(gates_t, 3, -1)
            zh, rh, ch = jnp.split(pulled, 3, -1)
            z, r = jax.nn.sigmoid(zx + zh), jax.nn.sigmoid(rx + rh)
            h = z * h + (1 - z) * jnp.tanh(cx + r * ch)
            return h, h

        state, hidden = jax.lax.scan(step, state, jnp.swapaxes(gates, 0, 1))
        return jnp.swapaxes(hidden, 0, 1) @ params["head_kernel"] + params["head_bias"], state

    def nll(logits, targets):
        at_target = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)
        return -at_target[..., 0]

    def loss(params, batch, state, key):
        logits, state = forward(params, batch, state, key)
        return nll(logits, batch["targets"]).mean(), state

    def client_init(shared, key):
        return {
            "params": shared,
            "slots": optimizer.init(shared),
            "key": key,
            "state": jnp.zeros((s["batch_size"], s["hidden_dim"])),
            "sums": jnp.zeros(2),
        }

    def client_step(client, batch):
        key, use = jax.random.split(client["key"])
        (value, state), gradient = jax.value_and_grad(loss, has_aux=True)(
            client["params"], batch, client["state"], use
        )
        slots, params = optimizer.apply(gradient, client["slots"], client["params"])
        count = batch["targets"].size
        sums = client["sums"] + jnp.stack([value * count, jnp.float32(count)])
        return {"params": params, "slots": slots, "key": key, "state": state, "sums": sums}

    def client_final(shared, client):
        return jax.tree.map(jnp.subtract, client["params"], shared), client["sums"]

    def eval_init(shared, _):
        state = jnp.zeros((s["batch_size"], s["hidden_dim"]))
        return {"params": shared, "state": state, "sums": jnp.zeros(2)}

    def eval_step(client, batch):
        logits, state = forward(client["params"], batch, client["state"])
        losses = nll(logits, batch["targets"]) * batch["mask"]
        sums = client["sums"] + jnp.stack([losses.sum(), batch["mask"].sum()])
        return client | {"state": state, "sums": sums}

    train = fedjax.for_each_client(client_init, client_step, client_final)
    score = fedjax.for_each_client(eval_init, eval_step, lambda shared, client: client["sums"])

    names = ("rows", "numbers", "targets", "mask")
    batches = [
        [
            dict(zip(names[:3], step, strict=True))
            for step in zip(c.rows, c.numbers, c.targets, strict=True)
        ]
        for c in work.clients
    ]
    val = [
        [dict(zip(names, step, strict=True)) for step in zip(*c.val, strict=True)]
        for c in work.clients
    ]
    params = jax.tree.map(jnp.asarray, work.weights)
    key = jax.random.PRNGKey(0)

    def run_round():
        nonlocal params, key
        key, *keys = jax.random.split(key, len(batches) + 1)
        clients = list(zip(range(len(batches)), batches, keys, strict=True))
        sums = np.zeros(2)

        def weighted_updates():
            for _, (update, client_sums) in train(params, clients):
                sums[:] += np.asarray(client_sums)
                yield update, float(client_sums[1])

        update = fedjax.tree_util.tree_mean(weighted_updates())
        params = jax.block_until_ready(jax.tree.map(jnp.add, params, update))
        assert sums[1] == work.num_examples
        return sums[0] / sums[1]

    def evaluate():
        clients = [(i, batches, key) for i, batches in enumerate(val)]
        sums = sum(np.asarray(client_sums) for _, client_sums in score(params, clients))
        return sums[0] / sums[1]

    versions = ", ".join(f"{name} {version(name)}" for name in ("fedjax", "jax"))
    common.measure(args, work, run_round, evaluate, version=versions)


if __name__ == "__main__":
    main()
