"""Plans of the public Diffuser, as it is, untrained; runs in its own environment.

Its own `TemporalUnet` and `GaussianDiffusion.conditional_sample`, from noise to a plan between two given ends. One
thing is left out: the part of its package that draws and logs, which needs MuJoCo.
"""

from serving import bare, serve  # pyright: ignore[reportMissingImports]


def make(work: dict):
    """Return what plans some times for all lifetimes at once, and the versions it does so with."""
    whole, utils = (bare(name, work["checkout"]) for name in ("diffuser", "diffuser.utils"))
    import torch  # pyright: ignore[reportMissingImports]
    from diffuser.utils.progress import Progress, Silent  # pyright: ignore[reportMissingImports]

    utils.Progress, utils.Silent = Progress, Silent
    whole.utils = utils
    from diffuser.models.diffusion import GaussianDiffusion  # pyright: ignore[reportMissingImports]
    from diffuser.models.temporal import TemporalUnet  # pyright: ignore[reportMissingImports]

    observation, action, horizon, batch = 2, 1, work["horizon"], work["lifetimes"]
    net = TemporalUnet(horizon, observation + action, observation, dim=work["dim"], dim_mults=(1, 2, 4)).eval()
    model = GaussianDiffusion(
        net, horizon, observation, action, n_timesteps=work["passes"], clip_denoised=True, predict_epsilon=False
    ).eval()
    torch.manual_seed(0)
    ends = {0: torch.zeros(batch, observation), horizon - 1: torch.ones(batch, observation)}
    counted = []

    def call():
        for _ in range(work["plans"]):
            model.conditional_sample(ends, verbose=False)
        if counted:
            return None
        counted.append(flops(net, batch, horizon, observation + action))
        return {"flop_per_pass": counted[0]}

    return call, {"torch": torch.__version__}


def flops(net, batch: int, horizon: int, width: int) -> float:
    """FLOP of the products in a pass, for one plan."""
    import torch  # pyright: ignore[reportMissingImports]
    from torch.utils.flop_counter import FlopCounterMode  # pyright: ignore[reportMissingImports]

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(torch.zeros(batch, horizon, width), None, torch.zeros(batch, dtype=torch.long))
    return counter.get_total_flops() / batch


if __name__ == "__main__":
    serve(make)
