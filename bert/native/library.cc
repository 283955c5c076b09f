#include "common.h"

// MXNet calls this when it loads the library.
mxnet::ext::MXReturnValue initialize(int) { return mxnet::ext::MX_SUCCESS; }
