// The AdamW step as the host sees it; all addresses are device addresses.
#pragma once

#include "../adamw.h"

namespace nsr {

void adamw_step(const AdamwArgs& args, void* stream);

}  // namespace nsr
