// The AdamW steps as the host sees it; all addresses are device addresses.
#pragma once

#include "../adamw.h"

namespace nsr {

void adamw_step(const AdamwArgs& args, void* stream);
void adamw_8bit_step(const Adamw8bitArgs& args, void* stream);

}  // namespace nsr
