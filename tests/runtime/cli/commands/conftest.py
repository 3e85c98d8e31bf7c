from tests.support.service import serve as serve
