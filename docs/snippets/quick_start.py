"""Train on a folder and make pictures, by functions and by tasks."""

# region whole
import alphabar

for report in alphabar.train("my-pictures", out="runs/mine", minutes=30):
    print(report)
pipeline = alphabar.load("runs/mine")
pipeline.sample(64).save("new.png")
pipeline.with_settings(sampler="ddim", steps=20).sample(16, seed=7).save("sixteen.png")
# endregion

# region tasks
tasks = alphabar.tasks
job = tasks.start(tasks.SampleRequest(run="runs/mine", out="four.npy", n=4, steps=10))
for event in job:
    print(event)
print(job.result.files, job.request.command_line())
# endregion
