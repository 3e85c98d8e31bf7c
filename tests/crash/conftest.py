from tests.crash.disk import make_disk as make_disk
from tests.support.service import serve as serve
