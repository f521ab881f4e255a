import type { en } from "./en";

export const zh: { [K in keyof typeof en]: string } = {
  lead: "在此之前，可以在终端查看拦截记录并校验审计日志。",
};
