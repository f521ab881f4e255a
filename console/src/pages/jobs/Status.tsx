import { texts } from "../../i18n";
import type { Job } from "../../api/types";
import { en } from "./en";
import { zh } from "./zh";

const say = texts(en, zh);

/** The state of a job in words, with the colour of its kind. */
export function Status({ job }: { job: Job }) {
  const name = job.cancel_requested && !ended(job) ? "cancelling" : job.status;
  return <span class={`jobs-status ${job.status}`}>{say(`status.${name}`)}</span>;
}

export function ended(job: Job): boolean {
  return job.status === "succeeded" || job.status === "failed" || job.status === "cancelled";
}
