npr
