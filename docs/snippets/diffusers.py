"""To diffusers and back, and to ONNX. The tests run them in this order."""

# ruff: noqa: E402

# region write
from pathlib import Path

from alphabar.interop.diffusers_export import Export, write_export

model = Export.open(Path("runs/fashion"))
for note in write_export(model, Path("fashion-diffusers"), licence="mit", grid=model.sample_grid()):
    print(note)
# endregion

# region unconditional
from diffusers import DDPMPipeline

pipeline = DDPMPipeline.from_pretrained("flowers-diffusers")
pictures = pipeline(batch_size=4, num_inference_steps=250).images
# endregion

# region by_class
import torch
from diffusers import DDPMPipeline

pipeline = DDPMPipeline.from_pretrained("fashion-diffusers")
unet, scheduler = pipeline.unet, pipeline.scheduler
scheduler.set_timesteps(250)
x, labels = torch.randn(4, 1, 28, 28), torch.tensor([0, 1, 2, 3])
with torch.no_grad():
    for t in scheduler.timesteps:
        x = scheduler.step(unet(x, t, class_labels=labels).sample, t, x).prev_sample
pictures = pipeline.numpy_to_pil((x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy())
# endregion

# region read
from pathlib import Path

from alphabar.interop.diffusers_import import read_import, write_import

found = read_import(Path("ddpm-cifar10-32"))
write_import(found, Path("runs/cifar10"))
print(found.shape, found.config.schedule.kind, found.notes)
# endregion

# region finetune
import alphabar

for report in alphabar.train("my-pictures", out="runs/mine", minutes=30, init="runs/cifar10"):
    print(report)
# endregion

# region onnx
from pathlib import Path

from alphabar.interop.onnx_export import export_onnx

export_onnx(Path("runs/fashion"), Path("fashion.onnx"), licence="mit")
# endregion
