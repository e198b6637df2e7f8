"""Published check-in data: where it is to be had, and which reader takes it."""

from dataclasses import dataclass

UNKNOWN = "unknown"
_FOURSQUARE = "https://sites.google.com/site/yangdingqi/home/foursquare-dataset"
_SNAP = "E. Cho, S. A. Myers, J. Leskovec: Friendship and Mobility. KDD 2011"


@dataclass(frozen=True)
class Published:
    """A published data set.

    Attributes:
        name: what it is called.
        format: the reader that takes it.
        address: of the page that offers it.
        files: what is read, by name.
        counts: as its publishers give them.
        licence: as its publishers give it; "unknown" if their page states none.
        citation: what they ask to cite.
        size_bytes, sha256: of the download; None where no trustworthy value is known.
    """

    name: str
    format: str
    address: str
    files: str
    counts: str
    licence: str
    citation: str
    size_bytes: int | None = None
    sha256: str | None = None


PUBLISHED = (
    Published(
        "Foursquare New York and Tokyo (TSMC2014)",
        "tsmc2014",
        _FOURSQUARE,
        "dataset_TSMC2014_NYC.txt, dataset_TSMC2014_TKY.txt",
        "New York 227,428 check-ins, Tokyo 573,703",
        UNKNOWN,
        "D. Yang, D. Zhang, V. W. Zheng, Z. Yu: Modeling User Activity Preference by Leveraging "
        "User Spatial Temporal Characteristics in LBSNs. IEEE Trans. SMC: Systems 45(1), 2015",
    ),
    Published(
        "Foursquare, global (TIST2015)",
        "tist2015",
        _FOURSQUARE,
        "dataset_TIST2015_Checkins.txt, dataset_TIST2015_POIs.txt, dataset_TIST2015_Cities.txt",
        "33,278,683 check-ins of 266,909 users at 3,680,126 venues in 415 cities",
        UNKNOWN,
        "D. Yang, D. Zhang, B. Qu: Participatory Cultural Mapping Based on Collective Behavior "
        "Data in Location-Based Social Networks. ACM TIST 7(3), 2016",
    ),
    Published(
        "Gowalla",
        "snap",
        "https://snap.stanford.edu/data/loc-gowalla.html",
        "loc-gowalla_totalCheckins.txt.gz, loc-gowalla_edges.txt.gz",
        "6,442,890 check-ins, 196,591 users, 950,327 friendships",
        UNKNOWN,
        _SNAP,
    ),
    Published(
        "Brightkite",
        "snap",
        "https://snap.stanford.edu/data/loc-brightkite.html",
        "loc-brightkite_totalCheckins.txt.gz, loc-brightkite_edges.txt.gz",
        "4,491,143 check-ins, 58,228 users, 214,078 friendships",
        UNKNOWN,
        _SNAP,
    ),
    Published(
        "LibCity's atomic files",
        "libcity",
        "https://github.com/LibCity/Bigscity-LibCity-Datasets",
        "NAME.geo, NAME.usr, NAME.dyna of foursquare_tky, foursquare_nyc, gowalla, brightkite",
        UNKNOWN,
        "that of each original",
        "J. Wang, J. Jiang, W. Jiang, C. Li, W. X. Zhao: LibCity: An Open Library for Traffic "
        "Prediction. SIGSPATIAL 2021",
    ),
    Published(
        "GeoLife",
        "geolife",
        "https://www.microsoft.com/en-us/download/details.aspx?id=52367",
        "Data/USER/Trajectory/*.plt",
        "17,621 trajectories of 182 users",
        "in the user guide that comes with it",
        "Y. Zheng, X. Xie, W.-Y. Ma: GeoLife: A Collaborative Social Networking Service among "
        "User, Location and Trajectory. IEEE Data Eng. Bull. 33(2), 2010",
    ),
    Published(
        "GETNext's New York",
        "getnext",
        "https://github.com/songyangme/GETNext",
        "NYC_train.csv, NYC_val.csv, NYC_test.csv",
        UNKNOWN,
        UNKNOWN,
        "S. Yang, J. Liu, K. Zhao: GETNext: Trajectory Flow Map Enhanced Transformer for Next POI "
        "Recommendation. SIGIR 2022; and TSMC2014, which it is made from",
    ),
    Published(
        "Weeplaces",
        "weeplaces",
        "https://www.yongliu.org/datasets/",
        "weeplace_checkins.csv",
        "7,658,368 check-ins",
        UNKNOWN,
        "Y. Liu, W. Wei, A. Sun, C. Miao: Exploiting Geographical Neighborhood Characteristics for "
        "Location Recommendation. CIKM 2014",
    ),
)
