from tests.service.service import serve as serve
