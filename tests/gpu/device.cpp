// Lets autograd run on tensors that say `cuda` where torch sees no GPU. Between `enter` and `leave`, torch's CUDA hooks
// report devices, and a guard that does nothing answers for streams. Hooks cannot be registered anew once they have
// been asked for, so the object that torch holds is given other virtual functions; it has no members.
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {
using c10::Device, c10::DeviceIndex, c10::Stream;

struct Hooks : at::CUDAHooksInterface {
  bool isBuilt() const { return true; }  // in newer versions of torch
  bool hasCUDA() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return 2; }
  DeviceIndex getCurrentDevice() const override { return 0; }
};

struct Guard : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {
  Device getDevice() const override { return {c10::DeviceType::CUDA, 0}; }
  Device exchangeDevice(Device) const override { return getDevice(); }
  DeviceIndex deviceCount() const noexcept override { return 2; }
  Stream getStream(Device device) const noexcept override {
    return Stream(Stream::DEFAULT, device.has_index() ? device : getDevice());
  }
  Stream getNewStream(Device device, int) const override { return getStream(device); }
  Stream exchangeStream(Stream stream) const noexcept override { return stream; }
  void record(void**, const Stream&, const DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
};

Hooks hooks;
Guard guard;
void* functions = nullptr;  // of torch's own hooks
const c10::impl::DeviceGuardImplInterface* before = nullptr;

void*& virtual_functions(const at::CUDAHooksInterface& object) {
  return *reinterpret_cast<void**>(const_cast<at::CUDAHooksInterface*>(&object));
}
}  // namespace

extern "C" void enter() {
  auto& held = virtual_functions(at::detail::getCUDAHooks());
  functions = held;
  held = virtual_functions(hooks);
  before = c10::impl::device_guard_impl_registry[static_cast<size_t>(c10::DeviceType::CUDA)].exchange(&guard);
}

extern "C" void leave() {
  virtual_functions(at::detail::getCUDAHooks()) = functions;
  c10::impl::device_guard_impl_registry[static_cast<size_t>(c10::DeviceType::CUDA)].store(before);
}
