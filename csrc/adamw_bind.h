// AdamwArgs as a Python class of either extension module; kernels/adamw.py makes them.
#pragma once

#include <pybind11/pybind11.h>

#include <stdexcept>

#include "adamw.h"

namespace nsr {

inline AdamwArgs make_adamw(uintptr_t weight, uintptr_t grad, uintptr_t exp_avg,
                            uintptr_t exp_avg_sq, uintptr_t master, uintptr_t grad_scale_at,
                            int64_t count, bool is_weight_half, bool is_grad_half,
                            float step_size, float decay, float blend1, float beta2, float blend2,
                            float inv_bias2_sqrt, float eps, float grad_scale, uint32_t key0,
                            uint32_t key1) {
  if (count < 1 || count >= int64_t(1) << 31)
    throw std::invalid_argument("count: expected 1 <= count < 2^31");
  if (master && !is_weight_half)
    throw std::invalid_argument("master: a float32 weight is its own");
  const auto floats = [](uintptr_t address) { return reinterpret_cast<float*>(address); };
  return {reinterpret_cast<void*>(weight), reinterpret_cast<const void*>(grad), floats(exp_avg),
          floats(exp_avg_sq), floats(master), floats(grad_scale_at), count, is_weight_half,
          is_grad_half, step_size, decay, blend1, beta2, blend2, inv_bias2_sqrt, eps, grad_scale,
          key0, key1};
}

inline Adamw8bitArgs with_8bit_state(const AdamwArgs& step, uintptr_t code, uintptr_t absmax,
                                     uintptr_t exp_avg_sq) {
  if (step.exp_avg || step.exp_avg_sq || step.master)
    throw std::invalid_argument("step: moments and master are those of the 8-bit state");
  return {step, reinterpret_cast<int8_t*>(code), reinterpret_cast<float*>(absmax),
          reinterpret_cast<void*>(exp_avg_sq)};
}

inline void bind_adamw(pybind11::module_& m) {
  namespace py = pybind11;
  py::class_<AdamwArgs>(m, "Adamw", py::module_local())
      .def(py::init(&make_adamw), py::kw_only(), py::arg("weight"), py::arg("grad"),
           py::arg("exp_avg"), py::arg("exp_avg_sq"), py::arg("master"), py::arg("grad_scale_at"),
           py::arg("count"), py::arg("is_weight_half"), py::arg("is_grad_half"),
           py::arg("step_size"), py::arg("decay"), py::arg("blend1"), py::arg("beta2"),
           py::arg("blend2"), py::arg("inv_bias2_sqrt"), py::arg("eps"), py::arg("grad_scale"),
           py::arg("key0"), py::arg("key1"));
}

}  // namespace nsr
