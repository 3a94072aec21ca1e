"""Formats of learning histories: how those that others have published, and one's own, are read and written.

One file a format, one line here. Each imports its own library when it is used: `pip install 'ad_jax[hdf5]'`.
"""

FORMATS = {
    "npz": "ad_jax.formats.npz:Npz",
    "hdf5": "ad_jax.formats.hdf5:Hdf5",
    "parquet": "ad_jax.formats.parquet:Parquet",
    "ad_eps": "ad_jax.formats.ad_eps:AdEps",
    "ad_eps_watermaze": "ad_jax.formats.ad_eps_watermaze:AdEpsWatermaze",
    "dicp": "ad_jax.formats.dicp:Dicp",
    "headless_ad": "ad_jax.formats.headless_ad:HeadlessAd",
    "icrl4aht": "ad_jax.formats.icrl4aht:Icrl4aht",
    "minari": "ad_jax.formats.minari:Minari",
    "omnirl": "ad_jax.formats.omnirl:OmniRL",
    "ra_dt": "ad_jax.formats.ra_dt:RaDt",
    "vintix": "ad_jax.formats.vintix:Vintix",
    "xland": "ad_jax.formats.xland:XLand",
}
